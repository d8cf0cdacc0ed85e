"""`extra_args`: every route that generates images or videos passes them on, and what they may contain."""

import base64
import io
import json

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from omni_worker.config.api import Limits
from omni_worker.model_card import CallArgument
from tests.worker.api.in_process import EDITOR, FILMER, PAINTER, WRITER, Head, client_of
from tests.worker.api.sample_images import image_file, solid_image

ARGUMENTS = (
    CallArgument(name="max_sequence_length", kinds=("integer",), default=512),
    CallArgument(name="prompt_2", kinds=("text",)),
    CallArgument(name="sigmas", kinds=("list",)),
    CallArgument(name="prior_num_inference_steps", kinds=("integer",)),
    CallArgument(name="control_image", kinds=("image",)),
)
CARDS = [replace(card, arguments=ARGUMENTS) for card in (PAINTER, EDITOR, FILMER)]
SCALARS = {"max_sequence_length": 64, "prompt_2": "oil", "sigmas": [1.0, 0.5]}
RED = solid_image()


def data_url(image: Image.Image = RED) -> str:
    file = io.BytesIO()
    image.save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def post(head, extra_args, path="/v1/images/generations", **body):
    with client_of(head) as client:
        return client.post(path, json={"prompt": "a tree", "extra_args": extra_args, **body})


def test_a_request_in_json_passes_them_on():
    head = Head([CARDS[0]])
    response = post(head, {**SCALARS, "control_image": data_url()})
    assert response.status_code == 200, response.text
    (params,) = head.received
    assert params.extra_args == SCALARS
    (image,) = params.extra_images["control_image"]
    assert np.array_equal(image, np.asarray(RED.convert("RGB")))


def test_several_images_are_a_list():
    head = Head([CARDS[0]])
    assert post(head, {"control_image": [data_url(), data_url()]}).status_code == 200
    assert len(head.received[0].extra_images["control_image"]) == 2


def test_a_conversation_passes_them_on():
    head = Head([CARDS[0]])
    with client_of(head) as client:
        messages = [{"role": "user", "content": "a tree"}]
        body = {"messages": messages, "modalities": ["image"], "extra_args": SCALARS}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert head.received[0].extra_args == SCALARS


def test_a_form_has_json_and_files():
    head = Head([CARDS[1]])
    files = [("image", image_file(RED)), ("extra_args[control_image]", image_file(RED))]
    with client_of(head) as client:
        data = {"prompt": "a tree", "extra_args": json.dumps(SCALARS)}
        response = client.post("/v1/images/edits", data=data, files=files)
        assert response.status_code == 200, response.text
        twice = {"prompt": "a tree", "extra_args": json.dumps({"control_image": data_url()})}
        response = client.post("/v1/images/edits", data=twice, files=files)
        assert response.json()["error"]["message"] == "extra_args: control_image is given twice"
    (params,) = head.received
    assert params.extra_args == SCALARS
    assert [image.shape for image in params.extra_images["control_image"]] == [(*RED.size[::-1], 3)]


def test_a_video_job_keeps_them():
    head = Head([CARDS[2]])
    with client_of(head) as client:
        body = {"prompt": "a boat", "extra_args": {**SCALARS, "control_image": data_url()}}
        job = client.post("/v1/videos", json=body).json()
        while job["status"] in ("queued", "in_progress"):
            job = client.get(f"/v1/videos/{job['id']}").json()
    assert job["status"] == "completed", job
    (params,) = head.received
    assert params.extra_args == SCALARS
    assert len(params.extra_images["control_image"]) == 1


@pytest.mark.parametrize(
    ("extra_args", "says"),
    [
        ({"max_sequence": 3}, "Painter has no extra argument 'max_sequence'; did you mean max_sequence_length?"),
        ({"height": 3}, "height has a field of its own: send it as size"),
        ({"max_sequence_length": 1.5}, "max_sequence_length takes a value of the kind integer"),
        ({"prior_num_inference_steps": 11}, "prior_num_inference_steps has 11 steps, more than the 10 allowed here"),
        ({"sigmas": [0.5] * 11}, "sigmas has 11 values, more than the 10 allowed here"),
        ({"prompt_2": "x" * 101}, "prompt_2 has 101 characters, more than the 100 allowed here"),
        ({"control_image": "https://example.org/a.png"}, "control_image takes an image, as data:image/png;base64,…"),
        ({"control_image": []}, "control_image takes an image"),
        ({"control_image": "data:image/png;base64,AAAA"}, "extra_args: "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_named(extra_args, says):
    head = Head([CARDS[0]], Limits(steps=10, prompt=100))
    response = post(head, extra_args)
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]
    assert response.json()["error"]["param"] == "extra_args"
    assert not head.received


@pytest.mark.parametrize(
    "extra_args",
    [5, [1], {"prompt_2": {"a": 1}}, {"sigmas": [[1]]}, {"x" * 65: 1}, {"sigmas": [0] * 1001}, {"a": 2**64}],
)
def test_values_of_another_form_are_invalid(extra_args):
    response = post(Head([CARDS[0]]), extra_args)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("extra_args")


def test_a_text_takes_none():
    with client_of(Head([WRITER])) as client:
        body = {"messages": [{"role": "user", "content": "hello"}], "extra_args": {"a": 1}}
        response = client.post("/v1/chat/completions", json=body)
    assert response.json()["error"]["param"] == "extra_args"


def test_the_card_lists_them():
    with client_of(Head([CARDS[0]])) as client:
        (replica,) = client.get("/omni/replicas").json()["replicas"]
    assert replica["card"]["arguments"][0] == {
        "name": "max_sequence_length", "kinds": ["integer"], "default": 512, "required": False,
    }  # fmt: skip
