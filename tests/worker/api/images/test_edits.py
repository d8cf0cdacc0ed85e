"""images.edit and pictures in conversations, on pipelines that start from pictures."""

import base64
import io

import httpx
import numpy as np
import openai
import pytest
from openai.types.image_edit_completed_event import ImageEditCompletedEvent
from openai.types.image_edit_partial_image_event import ImageEditPartialImageEvent
from PIL import Image

from tests.worker.api.heads import digits_as, head
from tests.worker.serving import client_of

pytestmark = pytest.mark.processes
PROMPT = "a red three on black background"


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


def file(picture, format="PNG", name="picture"):
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return (f"{name}.{format.lower()}", buffer.getvalue(), f"image/{format.lower()}")


def picture(colour="blue", side=32, mode="RGB"):
    return Image.new(mode, (side, side), colour)


def with_hole(side=32):
    """Transparent in its right half."""
    image = picture("blue", side, "RGBA")
    image.paste((0, 0, 255, 0), (side // 2, 0, side, side))
    return image


def pixels(b64):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64))).convert("RGB")).astype(int)


def edit(port, image, **asked):
    asked["extra_body"] = {"seed": 1, **asked.get("extra_body", {})}
    return client_of(port).images.edit(image=image, prompt=PROMPT, **asked)


def test_the_less_strength_the_more_is_left_of_the_picture(port):
    changed = [
        np.abs(pixels(edit(port, file(picture()), extra_body={"strength": s}).data[0].b64_json) - (0, 0, 255)).mean()
        for s in (0.3, 1.0)
    ]
    assert changed[0] < changed[1] - 10


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_pictures_are_taken_in_any_usual_format(port, format):
    answer = edit(port, file(picture(), format), size="64x64", n=2, output_format="webp")
    assert len(answer.data) == 2
    assert (answer.size, answer.output_format) == ("64x64", "webp")


def test_a_picture_may_come_in_a_list_of_one(port):
    assert edit(port, [file(picture())]).data


def test_a_stream_shows_the_edit_while_it_is_made(port):
    steps = {"num_inference_steps": 100, "strength": 0.9}
    *partial, last = list(edit(port, file(picture()), stream=True, partial_images=3, extra_body=steps))
    assert 1 <= len(partial) <= 3
    assert all(isinstance(one, ImageEditPartialImageEvent) for one in partial)
    assert isinstance(last, ImageEditCompletedEvent)
    assert (
        np.abs(pixels(last.b64_json) - pixels(edit(port, file(picture()), extra_body=steps).data[0].b64_json)).max()
        <= 2
    )


def test_a_mask_says_where_to_paint(inpainting):
    def painted(prompt, image, **asked):
        answer = client_of(inpainting).images.edit(
            image=image, prompt=prompt, extra_body={"seed": 1, "strength": 1.0}, **asked
        )
        return pixels(answer.data[0].b64_json)

    black, grey = (
        painted(f"a red three on {colour} background", file(picture()), mask=file(with_hole(), name="mask"))
        for colour in ("black", "grey")
    )
    changed = np.abs(black - grey).mean(axis=(0, 2))
    assert changed[:8].mean() < 15
    assert changed[24:].mean() > 40
    own = painted("a red three on black background", file(with_hole()))
    assert np.abs(black - own).max() <= 2, "a picture may be its own mask"


@pytest.mark.parametrize(
    ("image", "asked", "param", "says"),
    [
        pytest.param(("x.png", b"no picture"), {}, "image", "not a picture in PNG, JPEG or WebP", id="no picture"),
        pytest.param([file(picture())] * 2, {}, "image", "takes one picture, not 2", id="two pictures"),
        pytest.param(file(picture()), {"mask": file(with_hole())}, "mask", "takes no mask", id="a mask"),
        pytest.param(file(picture()), {"input_fidelity": "high"}, "input_fidelity", "strength says", id="fidelity"),
        pytest.param(file(picture()), {"extra_body": {"strength": 2}}, "strength", "less than", id="strength"),
        pytest.param(file(picture()), {"extra_body": {"stepz": 2}}, "stepz", "unknown parameter", id="unknown"),
        pytest.param(file(picture()), {"n": 11}, "n", "more than the 10", id="eleven"),
        pytest.param(file(picture()), {"size": "33x32"}, "size", "multiple of", id="an odd size"),
        pytest.param(file(picture()), {"background": "transparent"}, "background", "every pixel", id="transparency"),
    ],
)
def test_what_is_refused_is_refused_with_the_reason(port, image, asked, param, says):
    with pytest.raises(openai.BadRequestError) as caught:
        edit(port, image, **asked)
    assert caught.value.param == param
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        pytest.param(None, "send a mask", id="none"),
        pytest.param(file(with_hole(64)), "64x64 pixels, where the picture has 32x32", id="another size"),
        pytest.param(file(picture()), "nothing in it is transparent", id="nothing to paint"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused_with_the_reason(inpainting, mask, says):
    with pytest.raises(openai.BadRequestError, match=says) as caught:
        edit(inpainting, file(picture()), **({} if mask is None else {"mask": mask}))
    assert caught.value.param == "mask"


def test_bodies_that_are_no_such_form(port):
    url = f"http://127.0.0.1:{port}/v1/images/edits"
    png = file(picture())
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
    with pytest.raises(openai.BadRequestError, match="starts from a picture: POST /v1/images/edits takes one"):
        client_of(port).images.generate(prompt=PROMPT)


def part(image, name="image"):
    url = image if isinstance(image, str) else "data:image/png;base64," + base64.b64encode(file(image)[1]).decode()
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}


def chat(port, *parts, before=(), **asked):
    messages = [*before, {"role": "user", "content": [{"type": "text", "text": PROMPT}, *parts]}]
    return client_of(port).chat.completions.create(
        model="tiny", messages=messages, modalities=["image"], extra_body={"seed": 1}, **asked
    )


def drawn(choice):
    return pixels(choice.message.content[0]["image_url"]["url"].partition(",")[2])


def test_a_picture_in_a_message_is_started_from(port):
    expected = pixels(edit(port, file(picture())).data[0].b64_json)
    first, second = chat(port, part(picture()), n=2).choices
    assert np.abs(drawn(first) - expected).max() <= 2
    assert np.abs(drawn(second) - expected).max() > 2
    before = [{"role": "user", "content": [part(picture())]}, {"role": "assistant", "content": "a picture"}]
    (later,) = chat(port, before=before).choices
    assert np.abs(drawn(later) - expected).max() <= 2


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("https://example.org/cat.png", "fetches nothing", id="an address"),
        pytest.param("file:///etc/passwd", "fetches nothing", id="a file"),
        pytest.param("data:image/png,cat", "not a data: URL in base64", id="not in base64"),
        pytest.param("data:image/png;base64,???", "not in base64", id="broken base64"),
        pytest.param("data:image/png;base64,aGVsbG8=", "not a picture", id="no picture"),
    ],
)
def test_pictures_that_cannot_be_used_are_refused_with_the_reason(port, url, says):
    with pytest.raises(openai.BadRequestError, match=says) as caught:
        chat(port, part(url))
    assert caught.value.param == "messages"


def test_a_conversation_without_a_picture_is_told_where_to_put_it(port):
    with pytest.raises(openai.BadRequestError, match="put it into the last message"):
        chat(port)
