"""images.edit, on pipelines that start from images."""

import httpx
import numpy as np
import openai
import pytest
from openai.types.image_edit_completed_event import ImageEditCompletedEvent
from openai.types.image_edit_partial_image_event import ImageEditPartialImageEvent

from tests.worker.api.heads import digits_as, head
from tests.worker.api.odd_values import check_form, client_at
from tests.worker.api.sample_images import PROMPT, edit, half_transparent, image_file, pixels, solid_image
from tests.worker.serving import client_of

pytestmark = pytest.mark.processes
SOLID, HALF_TRANSPARENT = image_file(solid_image()), image_file(half_transparent())


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Digits that start from a picture."""
    with head(digits_as("QwenImageImg2ImgPipeline", tmp_path_factory.mktemp("img2img"))) as process:
        yield process.port


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory):
    """Digits that paint within a mask."""
    with head(digits_as("QwenImageInpaintPipeline", tmp_path_factory.mktemp("inpaint"))) as process:
        yield process.port


def test_the_less_strength_the_more_is_left_of_the_picture(port):
    changed = [
        np.abs(
            pixels(edit(port, image_file(solid_image()), extra_body={"strength": s}).data[0].b64_json) - (0, 0, 255)
        ).mean()
        for s in (0.3, 1.0)
    ]
    assert changed[0] < changed[1] - 10


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_pictures_are_taken_in_any_usual_format(port, format):
    answer = edit(port, image_file(solid_image(), format), size="64x64", n=2, output_format="webp")
    assert len(answer.data) == 2
    assert (answer.size, answer.output_format) == ("64x64", "webp")


def test_a_picture_may_come_in_a_list_of_one(port):
    assert edit(port, [image_file(solid_image())]).data


def test_a_stream_shows_the_edit_while_it_is_made(port):
    steps = {"num_inference_steps": 100, "strength": 0.9}
    *partial, last = list(edit(port, image_file(solid_image()), stream=True, partial_images=3, extra_body=steps))
    assert 1 <= len(partial) <= 3
    assert all(isinstance(one, ImageEditPartialImageEvent) for one in partial)
    assert isinstance(last, ImageEditCompletedEvent)
    assert (
        np.abs(
            pixels(last.b64_json) - pixels(edit(port, image_file(solid_image()), extra_body=steps).data[0].b64_json)
        ).max()
        <= 2
    )


def test_a_mask_says_where_to_paint(inpainting):
    def painted(prompt, image, **fields):
        answer = client_of(inpainting).images.edit(
            image=image, prompt=prompt, extra_body={"seed": 1, "strength": 1.0}, **fields
        )
        return pixels(answer.data[0].b64_json)

    black, grey = (
        painted(
            f"a red three on {colour} background",
            image_file(solid_image()),
            mask=image_file(half_transparent(), name="mask"),
        )
        for colour in ("black", "grey")
    )
    changed = np.abs(black - grey).mean(axis=(0, 2))
    assert changed[:8].mean() < 15
    assert changed[24:].mean() > 40
    by_itself = painted("a red three on black background", image_file(half_transparent()))
    assert np.abs(black - by_itself).max() <= 2, "a picture may be its own mask"


@pytest.mark.parametrize(
    ("image", "fields", "param", "says"),
    [
        pytest.param(("x.png", b"no picture"), {}, "image", "not an image: send PNG, JPEG or WebP", id="no picture"),
        pytest.param([SOLID] * 2, {}, "image", "takes one image, not 2", id="two pictures"),
        pytest.param(SOLID, {"mask": HALF_TRANSPARENT}, "mask", "takes no mask", id="a mask"),
        pytest.param(SOLID, {"input_fidelity": "high"}, "input_fidelity", "strength says", id="fidelity"),
        pytest.param(SOLID, {"extra_body": {"strength": 2}}, "strength", "less than", id="strength"),
        pytest.param(SOLID, {"extra_body": {"stepz": 2}}, "stepz", "unknown parameter", id="unknown"),
        pytest.param(SOLID, {"n": 11}, "n", "more than the 10", id="eleven"),
        pytest.param(SOLID, {"size": "33x32"}, "size", "multiple of", id="an odd size"),
        pytest.param(SOLID, {"background": "transparent"}, "background", "every pixel", id="transparency"),
    ],
)
def test_what_is_refused_is_refused_with_the_reason(port, image, fields, param, says):
    with pytest.raises(openai.BadRequestError) as caught:
        edit(port, image, **fields)
    assert caught.value.param == param
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        pytest.param(None, "send a mask", id="none"),
        pytest.param(image_file(half_transparent(64)), "64x64 pixels, where the image has 32x32", id="another size"),
        pytest.param(SOLID, "nothing in it is transparent", id="nothing to paint"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused_with_the_reason(inpainting, mask, says):
    with pytest.raises(openai.BadRequestError, match=says) as caught:
        edit(inpainting, SOLID, **({} if mask is None else {"mask": mask}))
    assert caught.value.param == "mask"


def test_odd_values_are_no_errors_of_the_server(port):
    fields = {"prompt": PROMPT, "num_inference_steps": "1", "strength": "1", "seed": "1"}
    with client_at(port) as client:
        check_form(client, "/v1/images/edits", fields, {"image": SOLID})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"strength": 0.1, "num_inference_steps": 4}, "strength"),
        ({"strength": 0.5, "num_inference_steps": 1}, "strength"),
        ({"strength": 0.02}, "strength"),
        ({"strength": 1e-300}, "strength"),
        ({"strength": 0.4, "quality": "low"}, "strength"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_less_than_one_step_is_refused_with_the_remedy(port, fields, param, stream):
    with pytest.raises(openai.BadRequestError, match="less than one step: give more strength") as caught:
        edit(port, SOLID, extra_body=fields, stream=stream)
    assert caught.value.param == param


def test_every_field_of_a_form_may_be_empty(port):
    """The official client sends an empty text for None."""
    nothing = dict.fromkeys(("n", "size", "quality", "output_format", "partial_images", "stream", "user"), "")
    answer = httpx.post(
        f"http://127.0.0.1:{port}/v1/images/edits",
        data={"prompt": PROMPT, "strength": "", "seed": "", **nothing},
        files={"image": SOLID},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text


def test_bodies_that_are_no_such_form(port):
    url = f"http://127.0.0.1:{port}/v1/images/edits"
    png = SOLID
    for sent, says in (
        ({"json": {"prompt": PROMPT}}, "multipart/form-data"),
        ({"data": {"prompt": PROMPT}, "files": {"photo": png}}, "not a file that this route takes"),
        ({"files": {"prompt": (None, PROMPT), "image": (None, "text")}}, "with a file name"),
        ({"files": {"prompt": (None, PROMPT)}}, "missing parameter: 'image'"),
        ({"files": {"image": png}}, "missing parameter: 'prompt'"),
        ({"content": b"garbage", "headers": {"content-type": "multipart/form-data; boundary=x"}}, ""),
        ({"content": b"garbage", "headers": {"content-type": "multipart/form-data"}}, ""),
    ):
        answer = httpx.post(url, timeout=30, **sent)
        assert answer.status_code == 400, answer.text
        assert says in answer.json()["error"]["message"]


def test_a_prompt_alone_is_not_enough(port):
    with pytest.raises(openai.BadRequestError, match="starts from an image: POST /v1/images/edits takes one"):
        client_of(port).images.generate(prompt=PROMPT)
