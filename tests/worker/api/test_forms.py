"""Bodies of requests: JSON and forms, what they may contain, and whose requests they are."""

import asyncio
import json
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, Request

from omni_worker.api.access.clients import Client
from omni_worker.api.chat.schemas import ChatRequest
from omni_worker.api.errors import install_error_handlers
from omni_worker.api.forms import json_body, json_description, read_form
from omni_worker.api.images.schemas import ImageEditRequest, ImageGenerationRequest

JSON = {"content-type": "application/json"}
MESSAGES = [{"role": "user", "content": "a red three"}]


@pytest.fixture(scope="module")
def app():
    app = FastAPI()
    install_error_handlers(app)
    app.state.client = None

    @app.middleware("http")
    async def identify(request: Request, call_next):
        request.state.request_id = "x"
        if app.state.client is not None:
            request.state.client = app.state.client
        return await call_next(request)

    @app.post("/chat")
    async def chat(body: Annotated[ChatRequest, Depends(json_body(ChatRequest))]):
        return {"count": len(body.messages)} | body.generation

    @app.post("/images")
    async def images(body: Annotated[ImageGenerationRequest, Depends(json_body(ImageGenerationRequest))]):
        return body.generation

    @app.post("/edits")
    async def edits(request: Request):
        body, _ = await read_form(request, ImageEditRequest, frozenset({"image"}))
        return body.generation

    return app


@pytest.fixture(scope="module")
def post(app):
    def post(path, **request):
        async def send():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                return await client.post(path, **request)

        return asyncio.run(send())

    return post


# ---- JSON


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        pytest.param("/chat", [{"role": "user", "content": [1] * 20_000}], "messages.0.content", id="wrong parts"),
        pytest.param("/chat", [1] * 40_000, "messages", id="wrong messages"),
        pytest.param(
            "/chat", [{"role": "user", "content": [{"type": "text", "text": ""}] * 5000}], "content", id="parts"
        ),
        pytest.param("/chat", MESSAGES * 1001, "1000", id="too many messages"),
        pytest.param("/chat", [{"x": 1, "y": 2}] * 1000, "messages.0", id="wrong keys"),
        pytest.param("/chat", [[[1] * 1000] * 30] * 10, "50000 values", id="values"),
    ],
)
def test_lists_of_wrong_things_end_at_the_first(post, path, body, says):
    answer = post(path, json={"messages": body})
    assert answer.status_code == 400
    assert says in json.dumps(answer.json()["error"])
    assert len(answer.content) < 1000


def test_many_unknown_keys_are_refused_before_they_are_parsed(post):
    answer = post("/images", json={"prompt": "x"} | {f"k{i}": 0 for i in range(5000)})
    assert answer.status_code == 400
    assert "more than 1000 members" in answer.json()["error"]["message"]
    few = post("/images", json={"prompt": "x", "k": 0}).json()["error"]
    assert (few["code"], few["param"]) == ("unknown_parameter", "k")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"nonsense", b'{"prompt": "\\ud800"}', b"\xff\xfe", b"[" * 60, b"1" * 9999]
)
def test_what_is_no_json_object_is_400(post, content):
    answer = post("/images", content=content, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"])
def test_content_types_of_json(post, content_type):
    assert (
        post("/images", content=b'\xef\xbb\xbf{"prompt": "x"}', headers={"content-type": content_type}).status_code
        == 200
    )


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_other_content_types_are_refused_so_that_no_form_of_a_web_page_can_send_json(post, content_type):
    answer = post("/images", content=b'{"prompt": "x"}', headers={"content-type": content_type} if content_type else {})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_content_type"


def test_a_long_body_is_validated_as_a_short_one(post):
    assert post("/chat", json={"messages": [{"role": "user", "content": "x" * 100_000}]}).json()["count"] == 1


def test_the_description_names_the_schema():
    schema = json_description(ChatRequest)["requestBody"]["content"]["application/json"]["schema"]
    assert schema["$ref"] == "#/$defs/ChatRequest"
    assert {"ChatRequest", "ChatMessage"} <= schema["$defs"].keys()


# ---- whose request it is


@pytest.mark.parametrize(
    ("client", "fields", "expected"),
    [
        pytest.param(None, {"tenant": "t", "priority": 100}, ("t", 100), id="no keys"),
        pytest.param(Client("a", "team"), {"tenant": "t", "priority": 100}, ("team", 0), id="a key"),
        pytest.param(Client("a", "team"), {"user": "u", "priority": -3}, ("team", -3), id="a lower priority"),
        pytest.param(Client("a", "team", 7), {"priority": 9}, ("team", 7), id="the highest priority"),
        pytest.param(Client("a", "team", -5), {}, ("team", -5), id="a key for work in the background"),
        pytest.param(Client("gate", "*"), {"tenant": "t", "user": "u"}, ("t", 0), id="a gateway"),
    ],
)
def test_a_key_decides_on_the_tenant_and_the_highest_priority(app, post, client, fields, expected):
    app.state.client = client
    try:
        for answer in (
            post("/images", json={"prompt": "x", **fields}),
            post("/chat", json={"messages": MESSAGES, **fields}),
            post("/edits", data={"prompt": "x", **fields}, files={"image": ("a.png", b"png")}),
        ):
            assert (answer.json()["tenant"], answer.json()["priority"]) == expected
    finally:
        app.state.client = None
