"""The stream of an answer to a conversation: its text while it is generated, as OpenAI's server-sent events."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from omni_worker.api.chat.response_schemas import Logprob
from omni_worker.api.chat.responses import chat_usage, completion_id, finish_reason, message_content, to_logprobs
from omni_worker.api.chat.schemas import ChatRequest
from omni_worker.api.generation import param_names
from omni_worker.api.streams import KEEP_ALIVE, Stream, format_event
from omni_worker.errors import RequestError
from omni_worker.orchestrator.handover import TEXT
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.replica.wire.messages import Partial
from omni_worker.requests import GeneratedText, GenerationRequest, GenerationResult


class ChatStream(Stream):
    """The choices of one request as events. Choice i is the result of `requests[i]`."""

    def __init__(
        self, orchestrator: Orchestrator, requests: Sequence[GenerationRequest], body: ChatRequest, model: str
    ) -> None:
        super().__init__()
        self._orchestrator = orchestrator
        self._requests = requests
        self._body = body
        self._includes_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        self._shared_fields: dict[str, Any] = {
            "id": completion_id(requests[0].id),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        if self._includes_usage:
            self._shared_fields["usage"] = None
        self._unsent: list[list[GeneratedText]] = [[] for _ in requests]
        self._results: list[GenerationResult | None] = [None] * len(requests)

    async def events(self) -> AsyncIterator[str]:
        """The events. Closing the iterator aborts the requests."""
        is_complete = [False] * len(self._requests)
        try:
            for index in range(len(self._requests)):
                yield self._event(index, {"role": "assistant", "content": ""})
            while not all(is_complete):
                if not await self._wait_for_update():
                    yield KEEP_ALIVE
                    continue
                self._updated.clear()
                for index, result in enumerate(self._results):
                    if text_event := self._text_event(index):
                        yield text_event
                    if result is not None and not is_complete[index]:
                        is_complete[index] = True
                        async for event in self._last_events(index, result):
                            yield event
                if (failure := self._failure) is not None:
                    yield format_event(failure)
                    return
            if self._includes_usage:
                results = [result for result in self._results if result is not None]
                yield format_event({**self._shared_fields, "choices": [], "usage": chat_usage(results).model_dump()})
            yield "data: [DONE]\n\n"
        finally:
            await self.stop()

    async def _generate(self) -> None:
        async def generate_choice(index: int, request: GenerationRequest) -> None:
            def keep_text(partial: Partial) -> None:
                if partial.written is not None:
                    self._unsent[index].append(partial.written)
                    self._updated.set()

            self._results[index] = await self._orchestrator.generate(request, keep_text)
            self._updated.set()

        with param_names(self._body.param_names):
            try:
                async with asyncio.TaskGroup() as group:
                    for index, request in enumerate(self._requests):
                        group.create_task(generate_choice(index, request))
            except* RequestError as errors:
                raise errors.exceptions[0] from None

    def _text_event(self, index: int) -> str | None:
        """The unsent text of a choice as one event; None if there is none.

        Tokens without text so far (parts of a character, the end token) stay unsent until there is text, or the end.
        """
        text = "".join(piece.text for piece in self._unsent[index])
        return self._event(index, {"content": text}, logprobs=self._take_logprobs(index)) if text else None

    def _take_logprobs(self, index: int) -> list[Logprob] | None:
        """The logprobs of the unsent tokens of a choice, which count as sent now; None if the client wants none."""
        pieces, self._unsent[index] = self._unsent[index], []
        return [entry for piece in pieces for entry in to_logprobs(piece)] if self._body.logprobs else None

    async def _last_events(self, index: int, result: GenerationResult) -> AsyncIterator[str]:
        """The image of a choice, if it has one, and its finish reason with the logprobs of tokens without a text."""
        content = await message_content(result, self._requests[index].outputs - {TEXT})
        if isinstance(content, list):
            yield self._event(index, {"content": content})
        yield self._event(index, {}, finish_reason(result), self._take_logprobs(index) or None)

    def _event(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        logprobs: list[Logprob] | None = None,
    ) -> str:
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish_reason}
        if logprobs is not None:
            choice["logprobs"] = {"content": [entry.model_dump() for entry in logprobs]}
        return format_event({**self._shared_fields, "choices": [choice]})
