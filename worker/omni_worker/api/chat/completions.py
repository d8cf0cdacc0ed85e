"""POST /v1/chat/completions: text from the stages that write, pictures from those that draw, streamed if asked for."""

import asyncio
import time

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from omni_worker.api import streams
from omni_worker.api.chat.response_schemas import ChatChunk, ChatCompletion, Choice, ChoiceLogprobs, Reply, logprobs_of
from omni_worker.api.chat.responses import completion_id, content_of, finish_reason, usage
from omni_worker.api.chat.schemas import ChatRequest
from omni_worker.api.chat.stream import ChatStream
from omni_worker.api.generation import ERRORS, generate_all, numbered, seeds, unless_disconnected
from omni_worker.api.images.decoding import arrays, of_data_url, opened
from omni_worker.api.openapi import streaming
from omni_worker.api.service import Asked, Service
from omni_worker.errors import RequestError
from omni_worker.orchestrator.handover import IMAGE, TEXT
from omni_worker.requests import GenerationParams, GenerationRequest, GenerationResult, Message

Pictures = tuple[list[np.ndarray], np.ndarray | None]
WHERE = "put it into the last message, as an image_url part"
ANSWERS = {**ERRORS, 200: streaming(ChatChunk, "The answer, or with `stream` the pieces of it; then `[DONE]`.")}


def chat_routes(service: Service) -> APIRouter:
    """The routes that hold a conversation."""
    router = APIRouter(tags=["chat"])
    orchestrator, model = service.orchestrator, service.model

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ANSWERS)
    async def complete(body: ChatRequest, request: Request) -> ChatCompletion | Response:
        """Answer a conversation with text, a picture, or both."""
        gives = service.outputs
        wanted = frozenset(body.modalities or ({TEXT} if TEXT in gives else gives))
        images, mask = await pictures_of(body, service, wanted)
        prompt = "" if TEXT in gives else body.messages[-1].text
        asked = Asked(prompt, body.count, images, mask, where=WHERE, image_field="messages")
        if IMAGE in wanted:
            service.check(body, asked)
        else:
            service.check_text(body, asked)
        requests = split(request.state.request_id, body, wanted, images, mask)
        if body.stream:
            stream = ChatStream(orchestrator, requests, body, model)
            await unless_disconnected(request, stream.start())
            return StreamingResponse(stream.events(), media_type="text/event-stream", headers=streams.HEADERS)
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


async def pictures_of(body: ChatRequest, service: Service, wanted: frozenset[str]) -> Pictures:
    """The newest pictures of the conversation, for the stages that draw. Raises RequestError where none could take
    those of the last message; older ones may have been drawn here themselves."""
    newest = next((message for message in reversed(body.messages) if message.image_urls), None)
    if newest is None:
        return [], None
    takes_none = IMAGE not in wanted or all(card.image == "none" for card in service.cards)
    if takes_none and newest is not body.messages[-1]:
        return [], None
    if IMAGE not in wanted:
        message = "messages: only a stage that draws takes pictures: ask for the modality image, where there is one"
        raise RequestError("invalid", message, "messages")
    files = [await asyncio.to_thread(of_data_url, url, "messages") for url in newest.image_urls]
    pictures = [await opened(file, "messages", service.limits.pixels) for file in files]
    return await asyncio.to_thread(arrays, pictures, [], service.scaled_to(body), service.takes_mask)


def split(
    id: str, body: ChatRequest, wanted: frozenset[str], images: list[np.ndarray], mask: np.ndarray | None
) -> list[GenerationRequest]:
    """One request a choice; choice i has seed + i."""
    messages = tuple(Message(role=one.role, content=one.text) for one in body.messages)
    shared = body.generation | {"prompt": messages[-1].content, "messages": messages, "sampling": body.sampling}
    shared |= {"images": images, "mask": mask}
    return [
        GenerationRequest(
            id=numbered(id, i, body.count),
            params=GenerationParams(seed=seed, stream=bool(body.stream) and TEXT in wanted, **shared),
            outputs=wanted,
        )
        for i, seed in enumerate(seeds(body.seed, body.count))
    ]


async def _choice(index: int, result: GenerationResult, wanted: frozenset[str], with_logprobs: bool) -> Choice:
    written = result.completion.written if result.completion else None
    return Choice(
        index=index,
        message=Reply(content=await content_of(result, wanted)),
        finish_reason=finish_reason(result),
        logprobs=ChoiceLogprobs(content=logprobs_of(written)) if with_logprobs and written else None,
    )
