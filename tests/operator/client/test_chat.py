"""Text from a pipeline, as its pieces come: what is told of answers that end well, badly, or not at all."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from omni_operator.client.chat import stream_text
from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import RequestFailed
from tests.loopback import Loopback, QuietHandler

QUESTION = {"messages": [{"role": "user", "content": "two plus five, in blue"}]}
Answer = Callable[[int, str], Endpoint]


@pytest.fixture
def answering() -> Iterator[Answer]:
    """Starts a server that gives every request one answer: a status and a body."""
    servers: list[Loopback] = []

    def start(status: int, body: str) -> Endpoint:
        class Handler(QuietHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert (asked["stream"], asked["modalities"]) == (True, ["text"])
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

        servers.append(Loopback(Handler))
        return Endpoint(servers[-1].url, "the pipeline")

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


def test_the_pieces_come_as_they_are_written(answering: Answer) -> None:
    where = answering(200, START + piece("a blue") + piece(" seven") + FINISH + USAGE + event("[DONE]"))
    assert list(stream_text(where, QUESTION)) == ["a blue", " seven"]


REFUSED: dict[str, tuple[int, str, str]] = {
    "a pipeline that only draws": (
        400,
        json.dumps({"error": {"message": "this pipeline gives image, not text", "param": "modalities"}}),
        "the pipeline answers 400: this pipeline gives image, not text; give -o FILE for a picture",
    ),
    "a full queue": (429, json.dumps({"error": {"message": "come again later"}}), "answers 429: come again later"),
    "a failure on the way": (
        200,
        START + piece("a") + event({"error": {"message": "the stage failed"}}),
        "the pipeline gave up: the stage failed",
    ),
    "a stream that breaks off": (200, START + piece("a"), "broke before the end of the answer"),
    "no pipeline at all": (200, event("hello"), "does not answer like a pipeline; is the address right?"),
    "a page of something else": (200, "<html></html>", "broke before the end of the answer"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_goes_wrong_is_told(answering: Answer, row: str) -> None:
    status, body, expected = REFUSED[row]
    with pytest.raises(RequestFailed) as caught:
        list(stream_text(answering(status, body), QUESTION))
    assert expected in str(caught.value)
