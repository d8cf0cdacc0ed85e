"""`omni_requests_total{outcome="invalid"}` counts every generation request that is answered with 400, once."""

import pytest
from msgspec.structs import replace

from omni_worker.errors import RequestError
from tests.worker.api.in_process import EDITOR, FILMER, PAINTER, Head, client_of

IMAGES = "/v1/images/generations"
INVALID = {
    "a wrong type": (IMAGES, {"json": {"prompt": 7}}),
    "an unknown parameter": (IMAGES, {"json": {"prompt": "a", "colour": "red"}}),
    "a missing parameter": (IMAGES, {"json": {}}),
    "a value that this model does not take": (IMAGES, {"json": {"prompt": "a", "size": "33x33"}}),
    "no JSON": (IMAGES, {"content": b"{", "headers": {"content-type": "application/json"}}),
    "an encoding that is cut off": (
        IMAGES,
        {"content": b"x", "headers": {"content-type": "application/json", "content-encoding": "gzip"}},
    ),
    "an edit without an image": ("/v1/images/edits", {"files": {"prompt": (None, "a")}}),
    "a video": ("/v1/videos", {"json": {"prompt": "a", "seconds": "-1"}}),
    "a chat": ("/v1/chat/completions", {"json": {"messages": []}}),
    "a sound": ("/v1/audio/speech", {"json": {"input": ""}}),
}


def invalid(head: Head) -> float:
    """The value of the counter."""
    return head.metrics.get_sample_value("omni_requests_total", {"outcome": "invalid"})


@pytest.mark.parametrize("row", INVALID)
def test_each_400_of_a_generation_route_counts_once(row):
    path, request = INVALID[row]
    head = Head([replace(EDITOR, video=True, frames=5) if "video" in row else EDITOR])
    with client_of(head) as client:
        response = client.post(path, **request)
    assert response.status_code == 400, response.text
    assert invalid(head) == 1


def test_a_request_that_a_replica_finds_invalid_counts_once(monkeypatch):
    head = Head([PAINTER])

    async def generate(*arguments, **more):
        raise RequestError("invalid", "prompt: too long", "prompt")

    monkeypatch.setattr(head.replicas[0], "generate", generate)
    with client_of(head) as client:
        assert client.post(IMAGES, json={"prompt": "a"}).status_code == 400
    assert invalid(head) == 1


def test_other_answers_do_not_count():
    head = Head([FILMER])
    with client_of(head) as client:
        assert client.get("/v1/videos", params={"after": "none"}).status_code == 400
        assert client.post("/v1/omni/loras", json={}).status_code in (400, 401, 403)
        assert client.post("/v1/nothing", json={}).status_code == 404
    assert invalid(head) == 0
