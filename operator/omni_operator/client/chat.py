"""Generates text with a running pipeline, through OpenAI's chat completions, streamed."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import (
    WRONG_OUTPUT_PARAMS,
    NotAPipeline,
    RequestFailed,
    connection_errors,
    require_success,
)

REMEDIES = dict.fromkeys(WRONG_OUTPUT_PARAMS, "give -o FILE for a picture, FILE.mp4 for a video, or FILE.wav for sound")
EVENT_PREFIX = "data: "
END_OF_STREAM = "[DONE]"


def stream_text(endpoint: Endpoint, request: dict[str, Any]) -> Iterator[str]:
    """The text of a chat request, in pieces as the pipeline generates them. Raises RequestFailed."""
    body = {**request, "stream": True, "modalities": ["text"]}
    with (
        connection_errors(endpoint),
        endpoint.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        if response.status_code != 200:
            response.read()
        require_success(endpoint, response, REMEDIES)
        yield from _text_in_events(endpoint, response)


def _text_in_events(endpoint: Endpoint, response: httpx.Response) -> Iterator[str]:
    """The text in a stream of server-sent events. Raises RequestFailed if the stream ends too early."""
    for line in response.iter_lines():
        if not line.startswith(EVENT_PREFIX):
            continue
        data = line.removeprefix(EVENT_PREFIX)
        if data == END_OF_STREAM:
            return
        try:
            event: dict[str, Any] = json.loads(data)
            if error := event.get("error"):
                raise RequestFailed(f"{endpoint.description} gave up: {error['message']}")
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    yield str(text)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise NotAPipeline(endpoint) from None
    raise RequestFailed(f"the connection to {endpoint.description} broke before the end of the answer")
