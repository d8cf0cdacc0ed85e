"""Images in conversations, on a pipeline that starts from an image."""

import base64

import numpy as np
import openai
import pytest

from tests.worker.api.heads import digits_as, head
from tests.worker.api.sample_images import PROMPT, edit, image_file, pixels, solid_image
from tests.worker.serving import client_of

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Digits that start from a picture."""
    with head(digits_as("QwenImageImg2ImgPipeline", tmp_path_factory.mktemp("img2img"))) as process:
        yield process.port


def image_part(image, name="image"):
    url = (
        image if isinstance(image, str) else "data:image/png;base64," + base64.b64encode(image_file(image)[1]).decode()
    )
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}


def chat(port, *parts, before=(), **fields):
    messages = [*before, {"role": "user", "content": [{"type": "text", "text": PROMPT}, *parts]}]
    return client_of(port).chat.completions.create(
        model="tiny", messages=messages, modalities=["image"], extra_body={"seed": 1}, **fields
    )


def drawn(choice):
    return pixels(choice.message.content[0]["image_url"]["url"].partition(",")[2])


def test_a_picture_in_a_message_is_started_from(port):
    expected = pixels(edit(port, image_file(solid_image())).data[0].b64_json)
    first, second = chat(port, image_part(solid_image()), n=2).choices
    assert np.abs(drawn(first) - expected).max() <= 2
    assert np.abs(drawn(second) - expected).max() > 2
    before = [{"role": "user", "content": [image_part(solid_image())]}, {"role": "assistant", "content": "a picture"}]
    (later,) = chat(port, before=before).choices
    assert np.abs(drawn(later) - expected).max() <= 2


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("https://example.org/cat.png", "fetches nothing", id="an address"),
        pytest.param("file:///etc/passwd", "fetches nothing", id="a file"),
        pytest.param("data:image/png,cat", "not an image", id="not in base64"),
        pytest.param("data:image/png;base64,???", "not in base64", id="broken base64"),
        pytest.param("data:image/png;base64,aGVsbG8=", "not an image", id="no picture"),
    ],
)
def test_pictures_that_cannot_be_used_are_refused_with_the_reason(port, url, says):
    with pytest.raises(openai.BadRequestError, match=says) as caught:
        chat(port, image_part(url))
    assert caught.value.param == "messages"


def test_a_conversation_without_a_picture_is_told_where_to_put_it(port):
    with pytest.raises(openai.BadRequestError, match="put it into the last message"):
        chat(port)
