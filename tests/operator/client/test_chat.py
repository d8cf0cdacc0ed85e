"""Streamed text from a pipeline: complete responses, errors, and streams that end too early."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from omni_operator.client.chat import stream_text
from omni_operator.client.endpoint import Endpoint, endpoint_at
from omni_operator.client.errors import RequestFailed
from tests.loopback import Loopback, QuietHandler

QUESTION = {"messages": [{"role": "user", "content": "two plus five, in blue"}]}
Serve = Callable[[int, str], Endpoint]


@pytest.fixture
def serving() -> Iterator[Serve]:
    """Starts a server that gives every request the same response: a status and a body."""
    servers: list[Loopback] = []

    def start(status: int, body: str) -> Endpoint:
        class Handler(QuietHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert (request["stream"], request["modalities"]) == (True, ["text"])
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

        servers.append(Loopback(Handler))
        return endpoint_at(servers[-1].url, "the pipeline")

    yield start
    for server in servers:
        server.close()


def event(content: dict[str, Any] | str) -> str:
    return f"data: {content if isinstance(content, str) else json.dumps(content)}\n\n"


def piece(text: str) -> str:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


START = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
FINISH = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
USAGE = event({"choices": [], "usage": {"total_tokens": 7}})


def test_text_arrives_in_the_pieces_that_were_sent(serving: Serve) -> None:
    endpoint = serving(200, START + piece("a blue") + piece(" seven") + FINISH + USAGE + event("[DONE]"))
    assert list(stream_text(endpoint, QUESTION)) == ["a blue", " seven"]


FAILURES: dict[str, tuple[int, str, str]] = {
    "a pipeline that only generates images": (
        400,
        json.dumps({"error": {"message": "this pipeline gives image, not text", "param": "modalities"}}),
        "the pipeline answers 400: this pipeline gives image, not text; give -o FILE for a picture",
    ),
    "a full queue": (429, json.dumps({"error": {"message": "come again later"}}), "answers 429: come again later"),
    "an error in the stream": (
        200,
        START + piece("a") + event({"error": {"message": "the stage failed"}}),
        "the pipeline gave up: the stage failed",
    ),
    "a stream that ends too early": (200, START + piece("a"), "broke before the end of the answer"),
    "events of another server": (200, event("hello"), "does not answer like a pipeline; is the address right?"),
    "a page of another server": (200, "<html></html>", "broke before the end of the answer"),
}


@pytest.mark.parametrize("row", FAILURES)
def test_a_failure_is_reported(serving: Serve, row: str) -> None:
    status, body, expected = FAILURES[row]
    with pytest.raises(RequestFailed) as caught:
        list(stream_text(serving(status, body), QUESTION))
    assert expected in str(caught.value)
