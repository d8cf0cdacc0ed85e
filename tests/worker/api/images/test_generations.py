"""images.generate, as the official client calls it."""

import base64
import io

import httpx
import numpy as np
import openai
import pytest
from openai.types.image_gen_completed_event import ImageGenCompletedEvent
from openai.types.image_gen_partial_image_event import ImageGenPartialImageEvent
from PIL import Image

from tests.worker.api.heads import head
from tests.worker.api.odd_values import check_json, client_at
from tests.worker.serving import client_of

pytestmark = pytest.mark.processes
PROMPT = "a red three on black background"


@pytest.fixture(scope="module")
def port():
    with head("builtin://digits", "--max-steps", "200", "--max-n", "3", "--max-pixels", "4096") as process:
        yield process.port


def draw(port, **fields):
    return client_of(port).images.generate(prompt=PROMPT, **fields)


def opened(b64):
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def pixels(b64):
    return np.asarray(opened(b64).convert("RGB")).astype(int)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_pictures_come_in_the_format_asked_for(port, format):
    answer = draw(port, size="32x32", output_format=format, n=2, extra_body={"seed": 1})
    assert [opened(one.b64_json).format for one in answer.data] == [format.upper()] * 2
    assert (answer.output_format, answer.size, answer.background) == (format, "32x32", "opaque")
    assert answer.usage.total_tokens == 0


def test_compression_makes_smaller_files_of_the_same_picture(port):
    small, large = (
        draw(port, output_format="jpeg", output_compression=quality, extra_body={"seed": 1}).data[0].b64_json
        for quality in (10, 100)
    )
    assert len(small) < len(large)
    assert np.abs(pixels(small) - pixels(large)).mean() < 30


def test_quality_is_a_share_of_the_models_own_steps(port):
    by_steps = {
        steps: pixels(draw(port, extra_body={"seed": 1, "steps": steps}).data[0].b64_json) for steps in (2, 4, 6)
    }
    for quality, steps, reported in (
        ("low", 2, "low"), ("medium", 4, "medium"), ("auto", 4, "medium"), ("standard", 4, "medium"), ("hd", 6, "high"),
    ):  # fmt: skip
        answer = draw(port, quality=quality, extra_body={"seed": 1})
        assert np.abs(pixels(answer.data[0].b64_json) - by_steps[steps]).max() <= 2, quality
        assert answer.quality == reported


def test_every_field_may_be_null(port):
    nothing = dict.fromkeys(
        ("background", "moderation", "n", "output_compression", "output_format", "partial_images", "quality"), None
    )
    more = dict.fromkeys(("response_format", "size", "stream", "style", "seed", "steps", "safety_identifier"), None)
    answer = httpx.post(
        f"http://127.0.0.1:{port}/v1/images/generations", json={"prompt": PROMPT, **nothing, **more}, timeout=60
    )
    assert answer.status_code == 200, answer.text


def test_a_stream_shows_the_picture_while_it_is_made(port):
    with draw(port, stream=True, partial_images=2, size="32x32", extra_body={"seed": 5, "steps": 100}) as stream:
        *partial, last = list(stream)
    assert all(isinstance(one, ImageGenPartialImageEvent) for one in partial)
    assert [one.partial_image_index for one in partial] == list(range(len(partial)))
    assert 1 <= len(partial) <= 2
    assert isinstance(last, ImageGenCompletedEvent)
    assert (last.size, last.background, last.quality, last.output_format) == ("32x32", "opaque", "medium", "png")
    assert last.usage.total_tokens == 0
    whole = draw(port, size="32x32", extra_body={"seed": 5, "steps": 100}).data[0].b64_json
    assert np.abs(pixels(last.b64_json) - pixels(whole)).max() <= 2
    assert np.abs(pixels(partial[0].b64_json) - pixels(whole)).max() > 2


def test_a_stream_without_previews_is_the_picture_alone(port):
    events = list(draw(port, stream=True, output_format="webp", extra_body={"seed": 5}))
    assert [one.type for one in events] == ["image_generation.completed"]
    assert opened(events[0].b64_json).format == "WEBP"


def test_events_are_named_as_they_are_typed(port):
    answer = httpx.post(
        f"http://127.0.0.1:{port}/v1/images/generations", json={"prompt": PROMPT, "stream": True}, timeout=60
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-request-id"]
    assert answer.text.startswith('event: image_generation.completed\ndata: {"type": "image_generation.completed"')


def test_a_stream_that_cannot_begin_is_an_error_and_no_stream(port):
    with pytest.raises(openai.BadRequestError, match="multiple of 8"):
        draw(port, stream=True, size="33x32")


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        pytest.param({"response_format": "url"}, "response_format", "come in the response", id="links"),
        pytest.param({"background": "transparent"}, "background", "paint every pixel", id="transparency"),
        pytest.param({"style": "vivid"}, "style", "say it in the prompt", id="style"),
        pytest.param({"output_format": "gif"}, "output_format", "do not move", id="gif"),
        pytest.param({"output_format": "bmp"}, "output_format", "'png', 'jpeg' or 'webp'", id="bmp"),
        pytest.param({"output_compression": 50}, "output_compression", "ask for jpeg or webp", id="small png"),
        pytest.param({"stream": True, "n": 2}, "n", "tells of one picture", id="a stream of two"),
        pytest.param({"partial_images": 2}, "partial_images", "needs stream: true", id="previews, no stream"),
        pytest.param({"partial_images": 4, "stream": True}, "partial_images", "less than", id="four previews"),
        pytest.param({"n": 4}, "n", "more than the 3 allowed", id="above --max-n"),
        pytest.param({"size": "128x64"}, "size", "more than the 4096 allowed", id="above --max-pixels"),
        pytest.param({"extra_body": {"steps": 201}}, "steps", "more than the 200", id="--max-steps"),
        pytest.param({"extra_body": {"prompt": "x" * 32_001}}, "prompt", "more than the 32000", id="a long prompt"),
        pytest.param({"extra_body": {"negative_prompt": "x" * 32_001}}, "negative_prompt", "32000", id="another"),
        pytest.param({"extra_body": {"seed": "7"}}, "seed", "valid integer", id="a number in quotes"),
    ],
)
def test_what_is_refused_is_refused_with_the_reason(port, fields, param, says):
    with pytest.raises(openai.BadRequestError) as caught:
        draw(port, **fields)
    assert caught.value.param == param
    assert says in caught.value.message


def test_odd_values_are_no_errors_of_the_server(port):
    with client_at(port) as client:
        check_json(client, "/v1/images/generations", {"prompt": PROMPT, "num_inference_steps": 1})


def test_a_body_that_is_not_said_to_be_json_is_refused_with_the_remedy(port):
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/images/generations", content='{"prompt": "a red three"}')
    assert answer.status_code == 400
    assert "send it with Content-Type: application/json" in answer.json()["error"]["message"]


def test_variations_are_refused_with_the_reason(port):
    with pytest.raises(openai.BadRequestError, match="images/edits takes an image together with a prompt"):
        client_of(port).images.create_variation(image=b"png")


def test_a_pipeline_that_takes_no_picture_says_so(port):
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG")
    with pytest.raises(openai.BadRequestError, match="takes no image to start from") as caught:
        client_of(port).images.edit(image=file.getvalue(), prompt=PROMPT)
    assert caught.value.param == "image"


def test_a_pipeline_that_makes_no_videos_says_so(port):
    with pytest.raises(openai.BadRequestError, match="makes no videos"):
        client_of(port).videos.create(prompt=PROMPT)
    assert list(client_of(port).videos.list()) == []
