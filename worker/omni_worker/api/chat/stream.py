"""An answer to a conversation while it is written, as OpenAI's server-sent events."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from omni_worker.api.chat.response_schemas import logprobs_of
from omni_worker.api.chat.responses import completion_id, content_of, finish_reason, usage
from omni_worker.api.chat.schemas import ChatRequest
from omni_worker.api.streams import KEEP_ALIVE, Stream, event
from omni_worker.errors import RequestError
from omni_worker.orchestrator.handover import TEXT
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.replica.wire.messages import Partial
from omni_worker.requests import GeneratedText, GenerationRequest, GenerationResult


class ChatStream(Stream):
    """The choices of one request as server-sent events."""

    def __init__(
        self, orchestrator: Orchestrator, requests: Sequence[GenerationRequest], body: ChatRequest, model: str
    ) -> None:
        super().__init__()
        self._orchestrator = orchestrator
        self._requests = requests
        self._body = body
        self._head = {
            "id": completion_id(requests[0].id),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._pieces: list[list[GeneratedText]] = [[] for _ in requests]
        self._results: list[GenerationResult | None] = [None] * len(requests)

    async def events(self) -> AsyncIterator[str]:
        """The events; closed, it aborts the requests."""
        told = [False] * len(self._requests)
        try:
            for index in range(len(self._requests)):
                yield self._event(index, {"role": "assistant", "content": ""})
            while not all(told):
                if not await self._more():
                    yield KEEP_ALIVE
                    continue
                self._news.clear()
                for index, result in enumerate(self._results):
                    if pieces := self._take(index):
                        yield pieces
                    if result is not None and not told[index]:
                        told[index] = True
                        async for piece in self._ending(index, result):
                            yield piece
                if (failure := self._failure) is not None:
                    yield event(failure)
                    return
            if self._body.stream_options and self._body.stream_options.include_usage:
                results = [result for result in self._results if result is not None]
                yield event({**self._head, "choices": [], "usage": usage(results).model_dump()})
            yield "data: [DONE]\n\n"
        finally:
            await self.stop()

    async def _generate(self) -> None:
        async def run(index: int, request: GenerationRequest) -> None:
            def take(partial: Partial) -> None:
                if partial.written is not None:
                    self._pieces[index].append(partial.written)
                    self._news.set()

            self._results[index] = await self._orchestrator.generate(request, take)
            self._news.set()

        try:
            async with asyncio.TaskGroup() as group:
                for index, request in enumerate(self._requests):
                    group.create_task(run(index, request))
        except* RequestError as errors:
            raise errors.exceptions[0] from None

    def _take(self, index: int) -> str | None:
        """All that was written since the last time, as one event; tokens that are no text yet wait for those after."""
        pieces = self._pieces[index]
        text = "".join(piece.text for piece in pieces)
        if not text:
            return None
        self._pieces[index] = []
        logprobs = [one for piece in pieces for one in logprobs_of(piece)] if self._body.logprobs else None
        return self._event(index, {"content": text}, logprobs=logprobs)

    async def _ending(self, index: int, result: GenerationResult) -> AsyncIterator[str]:
        parts = await content_of(result, self._requests[index].outputs - {TEXT})
        if isinstance(parts, list):
            yield self._event(index, {"content": parts})
        yield self._event(index, {}, finish_reason=finish_reason(result))

    def _event(
        self, index: int, delta: dict[str, Any], finish_reason: str | None = None, logprobs: list[Any] | None = None
    ) -> str:
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish_reason}
        if logprobs is not None:
            choice["logprobs"] = {"content": [one.model_dump() for one in logprobs]}
        return event({**self._head, "choices": [choice]})
