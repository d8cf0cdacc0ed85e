"""Input images at all routes: refused by the model's card before they are decoded, and their shape is kept."""

import base64
import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from omni_worker.api.images import headers
from tests.worker.api.in_process import EDITOR, FILMER, INPAINTER, PAINTER, Head, client_of
from tests.worker.api.sample_images import half_transparent, image_file, solid_image

CARDS = {"painter": PAINTER, "editor": EDITOR, "inpainter": INPAINTER, "filmer": FILMER}
HEADS = {name: Head([card]) for name, card in CARDS.items()}


@pytest.fixture(scope="module")
def clients():
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(client_of(head)) for name, head in HEADS.items()}


def edit(client, *images, mask=None, **fields):
    files = [("image[]", image_file(image)) for image in images]
    if mask is not None:
        files.append(("mask", image_file(mask)))
    return client.post("/v1/images/edits", data={"prompt": "a red three"} | fields, files=files)


def chat(client, *images, **fields):
    urls = ["data:image/png;base64," + base64.b64encode(image_file(image)[1]).decode() for image in images]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    messages = [{"role": "user", "content": [{"type": "text", "text": "a red three"}, *parts]}]
    return client.post("/v1/chat/completions", json={"messages": messages} | fields)


def film(client, image, **fields):
    url = "data:image/png;base64," + base64.b64encode(image_file(image)[1]).decode()
    body = {"prompt": "a red three", "input_reference": {"image_url": url}} | fields
    return client.post("/v1/videos", json=body)


@pytest.mark.parametrize(
    ("name", "send", "param", "says"),
    [
        ("painter", lambda client, image: edit(client, *[image] * 8), "image", "takes no image to start from"),
        ("painter", lambda client, image: chat(client, *[image] * 24), "messages", "takes no image to start from"),
        ("painter", film, "model", "makes no videos"),
        ("inpainter", lambda client, image: edit(client, image, image), "image", "takes one image, not 2"),
        ("editor", lambda client, image: edit(client, image, mask=image), "mask", "takes no mask"),
        ("editor", lambda client, image: edit(client, image, n="11"), "n", "more than the 10"),
        ("editor", lambda client, image: edit(client, image, size="33x32"), "size", "multiple of 8"),
        ("editor", lambda client, image: chat(client, image, steps=1001), "steps", "more than the 1000"),
        ("filmer", lambda client, image: film(client, image, steps=1001), "steps", "more than the 1000"),
    ],
)  # fmt: skip
def test_what_the_model_does_not_take_is_refused_before_a_file_is_opened(monkeypatch, clients, name, send, param, says):
    monkeypatch.setattr(headers.Image, "open", lambda *_, **__: pytest.fail("a file was opened"))
    response = send(clients[name], solid_image())
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert says in error["message"]


def test_a_prompt_above_the_limit_is_named_as_the_route_calls_it(clients):
    long = "x" * 32_001
    chat = {"messages": [{"role": "user", "content": long}]}
    for path, body, param in (
        ("/v1/chat/completions", chat, "messages"),
        ("/v1/images/generations", {"prompt": long}, "prompt"),
    ):
        error = clients["painter"].post(path, json=body).json()["error"]
        assert (error["param"], error["code"]) == (param, "context_length_exceeded")
        assert error["message"].startswith(f"{param}: 32001 characters are more")


def test_several_images_are_within_the_limit_together(clients):
    large = Image.new("1", (4096, 2100))
    for response in (edit(clients["editor"], large, large), chat(clients["editor"], large, large)):
        assert response.status_code == 400
        assert "2 images with 17203200 pixels together" in response.json()["error"]["message"]


@pytest.mark.parametrize("size", [{}, {"size": "auto"}, {"size": ""}])
@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (48, 32)])
def test_an_edit_without_a_size_keeps_the_shape_of_its_image(clients, shape, size):
    head = HEADS["editor"]
    response = edit(clients["editor"], Image.new("RGB", shape, "blue"), **size)
    assert response.json()["size"] == f"{shape[0]}x{shape[1]}"
    assert (head.received[-1].width, head.received[-1].height) == shape


def test_conversations_and_videos_keep_it_too(clients):
    image = Image.new("RGB", (64, 32), "blue")
    assert chat(clients["editor"], image).status_code == 200
    assert (HEADS["editor"].received[-1].width, HEADS["editor"].received[-1].height) == (64, 32)
    video = film(clients["filmer"], image).json()
    assert video["size"] == "64x32"


def test_a_size_that_is_named_is_used(clients):
    assert edit(clients["editor"], Image.new("RGB", (64, 32)), size="32x32").json()["size"] == "32x32"


def test_an_image_that_was_turned_has_the_shape_that_people_see(clients):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32)).save(buffer, "JPEG", exif=exif)
    files = {"image": ("a.jpg", buffer.getvalue(), "image/jpeg")}
    response = clients["editor"].post("/v1/images/edits", data={"prompt": "x"}, files=files)
    assert response.json()["size"] == "32x64"


def test_a_mask_is_an_image_of_its_own_or_what_is_transparent(clients):
    client, head = clients["inpainter"], HEADS["inpainter"]
    assert edit(client, half_transparent()).status_code == 200
    own = head.received[-1].mask
    assert edit(client, solid_image(), mask=half_transparent()).status_code == 200
    assert np.array_equal(head.received[-1].mask, own)
    response = edit(client, solid_image())
    assert response.json()["error"]["param"] == "mask"
    assert "send a mask" in json.dumps(response.json())
