"""POST /v1/chat/completions: text from the stages that write, pictures from those that draw, streamed if asked for."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from omni_worker.api.answers import ERRORS, check, generate_all, numbered, seeds, unless_disconnected
from omni_worker.api.chat_schemas import ChatCompletion, ChatRequest, Choice, ChoiceLogprobs, Reply, Usage, logprobs_of
from omni_worker.api.errors import error_body
from omni_worker.api.pictures import in_base64
from omni_worker.errors import RequestError
from omni_worker.orchestrator.handover import IMAGE, TEXT, outputs_of
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.replica.messages import Partial
from omni_worker.requests import GenerationParams, GenerationRequest, GenerationResult, Message, Written


def chat_routes(orchestrator: Orchestrator, model: str) -> APIRouter:
    """The routes that hold a conversation."""
    router = APIRouter(tags=["chat"])

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ERRORS)
    async def complete(body: ChatRequest, request: Request) -> ChatCompletion | Response:
        """Answer a conversation with text, a picture, or both."""
        check(body, model, orchestrator)
        gives = outputs_of([pool.stage for pool in orchestrator.pools])
        wanted = frozenset(body.modalities or ({TEXT} if TEXT in gives else gives))
        requests = split(request.state.request_id, body, wanted)
        if body.stream:
            stream = Stream(orchestrator, requests, body, model)
            await unless_disconnected(request, stream.start())
            return StreamingResponse(stream.events(), media_type="text/event-stream", headers=NO_BUFFERING)
        results = await unless_disconnected(request, generate_all(orchestrator, requests))
        choices = [await _choice(index, result, wanted, body.logprobs is True) for index, result in enumerate(results)]
        return ChatCompletion(
            id=completion_id(request.state.request_id),
            created=int(time.time()),
            model=model,
            choices=choices,
            usage=usage(results),
        )

    return router


NO_BUFFERING = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def completion_id(id: str) -> str:
    """The id of an answer, by that of its request."""
    return f"chatcmpl-{id}"


def split(id: str, body: ChatRequest, wanted: frozenset[str]) -> list[GenerationRequest]:
    """One request a choice; choice i has seed + i."""
    messages = tuple(Message(role=one.role, content=one.text) for one in body.messages)
    shared = body.generation | {"prompt": messages[-1].content, "messages": messages, "sampling": body.sampling}
    return [
        GenerationRequest(
            id=numbered(id, i, body.n),
            params=GenerationParams(seed=seed, stream=body.stream and TEXT in wanted, **shared),
            outputs=wanted,
        )
        for i, seed in enumerate(seeds(body))
    ]


async def content_of(result: GenerationResult, wanted: frozenset[str]) -> str | list[dict[str, Any]]:
    """An answer's content: its text, or a list of parts where a picture was asked for."""
    text = result.completion.written.text if result.completion else ""
    if IMAGE not in wanted:
        return text
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if TEXT in wanted else []
    for file in await in_base64(result.images):
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{file}"}})
    return parts


def finish_reason(result: GenerationResult) -> str:
    """Why the answer ended, in OpenAI's words."""
    return result.completion.finish_reason if result.completion else "stop"


def usage(results: Sequence[GenerationResult]) -> Usage:
    """The tokens that were read and written."""
    completions = [result.completion for result in results if result.completion]
    read = sum(one.prompt_tokens for one in completions)
    written = sum(len(one.written.tokens) for one in completions)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


async def _choice(index: int, result: GenerationResult, wanted: frozenset[str], with_logprobs: bool) -> Choice:
    written = result.completion.written if result.completion else None
    return Choice(
        index=index,
        message=Reply(content=await content_of(result, wanted)),
        finish_reason=finish_reason(result),
        logprobs=ChoiceLogprobs(content=logprobs_of(written)) if with_logprobs and written else None,
    )


class Stream:
    """The choices of one request as server-sent events. What the client has not read yet is kept as one piece a choice,
    so that a slow reader costs no more than the answer itself."""

    def __init__(
        self, orchestrator: Orchestrator, requests: Sequence[GenerationRequest], body: ChatRequest, model: str
    ) -> None:
        self._orchestrator = orchestrator
        self._requests = requests
        self._body = body
        self._head = {
            "id": completion_id(requests[0].id),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._pieces: list[list[Written]] = [[] for _ in requests]
        self._results: list[GenerationResult | None] = [None] * len(requests)
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, and wait for the first news: what fails before that is an error and no stream. Raises RequestError."""
        self._task = asyncio.create_task(self._generate())
        self._task.add_done_callback(lambda done: self._news.set())
        try:
            await self._news.wait()
        except asyncio.CancelledError:
            await self.stop()
            raise
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """End what runs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def events(self) -> AsyncIterator[str]:
        """The events; closed, it aborts the requests."""
        assert self._task is not None
        told = [False] * len(self._requests)
        try:
            for index in range(len(self._requests)):
                yield self._event(index, {"role": "assistant", "content": ""})
            while not all(told):
                await self._news.wait()
                self._news.clear()
                for index, result in enumerate(self._results):
                    if pieces := self._take(index):
                        yield pieces
                    if result is not None and not told[index]:
                        told[index] = True
                        async for event in self._ending(index, result):
                            yield event
                if self._task.done() and (error := self._task.exception()):
                    yield _data(_error(error))
                    return
            if self._body.stream_options and self._body.stream_options.include_usage:
                results = [result for result in self._results if result is not None]
                yield _data({**self._head, "choices": [], "usage": usage(results).model_dump()})
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
        """All that was written since the last time, as one event."""
        pieces, self._pieces[index] = self._pieces[index], []
        text = "".join(piece.text for piece in pieces)
        if not text:
            return None
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
        return _data({**self._head, "choices": [choice]})


def _data(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _error(error: BaseException) -> dict[str, Any]:
    if isinstance(error, RequestError):
        return error_body(error)
    with contextlib.suppress(Exception):
        raise error
    return {"error": {"message": "the server failed", "type": "server_error", "param": None, "code": "internal_error"}}
