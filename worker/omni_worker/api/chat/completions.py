"""POST /v1/chat/completions: text from autoregressive stages and images from diffusion stages, optionally streamed."""

import asyncio
import time
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse

from omni_worker.api import streams
from omni_worker.api.chat.response_schemas import ChatChunk, ChatCompletion, Choice, ChoiceLogprobs, Reply
from omni_worker.api.chat.responses import chat_usage, completion_id, finish_reason, message_content, to_logprobs
from omni_worker.api.chat.schemas import ChatRequest
from omni_worker.api.chat.stream import ChatStream
from omni_worker.api.forms import json_body, json_description
from omni_worker.api.generation import (
    ERROR_RESPONSES,
    cancel_on_disconnect,
    choose_seeds,
    generate_all,
    generation_request,
)
from omni_worker.api.images.decoding import decode_data_url, decode_image, to_arrays
from omni_worker.api.openapi import stream_response
from omni_worker.api.service import RouteInputs, Service
from omni_worker.errors import RequestError
from omni_worker.orchestrator.handover import IMAGE, TEXT
from omni_worker.requests import GenerationParams, GenerationRequest, GenerationResult, Message

ImagesAndMask = tuple[list[np.ndarray], np.ndarray | None]
IMAGE_HINT = "put it into the last message, as an image_url part"
BODY = json_description(ChatRequest)
RESPONSES = {
    **ERROR_RESPONSES,
    200: stream_response(ChatChunk, "The answer, or with `stream` the pieces of it; then `[DONE]`."),
}


def chat_routes(service: Service) -> APIRouter:
    """The route that answers a conversation."""
    router = APIRouter(tags=["chat"])
    orchestrator, model = service.orchestrator, service.model

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=RESPONSES, openapi_extra=BODY)
    async def complete(
        body: Annotated[ChatRequest, Depends(json_body(ChatRequest))], request: Request
    ) -> ChatCompletion | Response:
        """Answer a conversation with text, a picture, or both."""
        available = service.outputs
        outputs = frozenset(body.modalities or ({TEXT} if TEXT in available else available))
        images, mask = await input_images(body, service, outputs)
        prompt, conversation = body.messages[-1].text, 0
        if TEXT in available:
            prompt, conversation = "", sum(len(message.text) for message in body.messages)
        inputs = RouteInputs(
            prompt,
            body.count,
            images,
            mask,
            image_field="messages",
            image_hint=IMAGE_HINT,
            conversation=conversation,
        )
        if IMAGE in outputs:
            service.check(body, inputs)
        else:
            service.check_text(body, inputs)
        requests = choice_requests(request, body, outputs, images, mask)
        if body.stream:
            stream = ChatStream(orchestrator, requests, body, model)
            await cancel_on_disconnect(request, stream.start())
            return StreamingResponse(stream.events(), media_type="text/event-stream", headers=streams.HEADERS)
        results = await cancel_on_disconnect(request, generate_all(orchestrator, requests))
        choices = [await _choice(index, result, outputs, body.logprobs is True) for index, result in enumerate(results)]
        return ChatCompletion(
            id=completion_id(request.state.request_id),
            created=int(time.time()),
            model=model,
            choices=choices,
            usage=chat_usage(results),
        )

    return router


async def input_images(body: ChatRequest, service: Service, outputs: frozenset[str]) -> ImagesAndMask:
    """The images of the newest message that has any, for the diffusion stages.

    Raises RequestError if the last message has images and no stage can take them. Images of older messages are then
    ignored: the pipeline may have generated them itself.
    """
    newest = next((message for message in reversed(body.messages) if message.image_urls), None)
    if newest is None:
        return [], None
    takes_none = IMAGE not in outputs or all(card.image == "none" for card in service.cards)
    if takes_none and newest is not body.messages[-1]:
        return [], None
    if IMAGE not in outputs:
        message = "messages: only a stage that draws takes pictures: ask for the modality image, where there is one"
        raise RequestError("invalid", message, "messages")
    files = [await asyncio.to_thread(decode_data_url, url, "messages") for url in newest.image_urls]
    images = [await decode_image(file, "messages", service.limits.pixels) for file in files]
    return await asyncio.to_thread(to_arrays, images, [], service.input_image_size(body), service.takes_mask)


def choice_requests(
    request: Request, body: ChatRequest, outputs: frozenset[str], images: list[np.ndarray], mask: np.ndarray | None
) -> list[GenerationRequest]:
    """One request per choice. Choice i has the seed + i."""
    messages = tuple(Message(role=message.role, content=message.text) for message in body.messages)
    shared = body.generation | {"prompt": messages[-1].content, "messages": messages, "sampling": body.sampling}
    shared |= {"images": images, "mask": mask}
    streams_text = bool(body.stream) and TEXT in outputs
    return [
        generation_request(request, i, body.count, GenerationParams(seed=seed, stream=streams_text, **shared), outputs)
        for i, seed in enumerate(choose_seeds(body.seed, body.count))
    ]


async def _choice(index: int, result: GenerationResult, outputs: frozenset[str], with_logprobs: bool) -> Choice:
    text = result.completion.written if result.completion else None
    return Choice(
        index=index,
        message=Reply(content=await message_content(result, outputs)),
        finish_reason=finish_reason(result),
        logprobs=ChoiceLogprobs(content=to_logprobs(text)) if with_logprobs and text else None,
    )
