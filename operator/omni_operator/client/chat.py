"""Text from a running pipeline, as it is written: OpenAI's chat completions, streamed."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import OF_ANOTHER_KIND, GenerationFailed, NotAPipeline, connection, require_success

REMEDIES = dict.fromkeys(OF_ANOTHER_KIND, "give -o FILE for a picture")
EVENT = "data: "
END = "[DONE]"


def written(where: Endpoint, request: dict[str, Any]) -> Iterator[str]:
    """The answer to a chat request, piece by piece. Raises GenerationFailed."""
    body = {**request, "stream": True, "modalities": ["text"]}
    with (
        connection(where),
        where.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        if answer.status_code != 200:
            answer.read()
        require_success(where, answer, REMEDIES)
        yield from pieces(where, answer)


def pieces(where: Endpoint, answer: httpx.Response) -> Iterator[str]:
    """The text in a stream of server-sent events, which must come to its end."""
    for line in answer.iter_lines():
        if not line.startswith(EVENT):
            continue
        data = line.removeprefix(EVENT)
        if data == END:
            return
        try:
            event: dict[str, Any] = json.loads(data)
            if error := event.get("error"):
                raise GenerationFailed(f"{where.description} gave up: {error['message']}")
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    yield str(text)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise NotAPipeline(where) from None
    raise GenerationFailed(f"the connection to {where.description} broke before the end of the answer")
