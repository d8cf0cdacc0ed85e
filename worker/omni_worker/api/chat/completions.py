"""POST /v1/chat/completions: text from autoregressive stages and images from diffusion stages, optionally streamed."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse
from msgspec.structs import replace

from omni_worker.api import streams
from omni_worker.api.chat.response_schemas import ChatChunk, ChatCompletion, Choice, ChoiceLogprobs, Reply
from omni_worker.api.chat.responses import chat_usage, completion_id, finish_reason, message_content, to_logprobs
from omni_worker.api.chat.schemas import ChatRequest
from omni_worker.api.chat.stream import ChatStream
from omni_worker.api.forms import json_body, json_description
from omni_worker.api.generation import (
    ERROR_RESPONSES,
    cancel_on_disconnect,
    generate_all,
    generation_requests,
    param_names,
)
from omni_worker.api.images.data_urls import decode_data_url
from omni_worker.api.images.decoding import DecodedImages
from omni_worker.api.openapi import stream_response
from omni_worker.api.service import RouteInputs, Service
from omni_worker.errors import RequestError
from omni_worker.orchestrator.handover import IMAGE, TEXT
from omni_worker.requests import GenerationParams, GenerationRequest, GenerationResult, Message

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
        urls = input_image_urls(body, service, outputs)
        prompt, conversation = body.messages[-1].text, 0
        if TEXT in available:
            prompt, conversation = "", sum(len(message.text) for message in body.messages)
        inputs = RouteInputs(
            prompt,
            body.count,
            len(urls),
            image_field="messages",
            image_hint=IMAGE_HINT,
            conversation=conversation,
        )
        with param_names(body.param_names):
            if IMAGE in outputs:
                service.check(body, inputs)
            else:
                service.check_text(body, inputs)
        decoded = await cancel_on_disconnect(request, decode_input_images(body, service, urls))
        params = generation_params(body, service, decoded)
        params = await cancel_on_disconnect(request, service.with_decoded_images(params))
        with param_names(body.param_names):
            service.check_params(params)
        requests = choice_requests(request, body, outputs, params)
        if body.stream:
            stream = ChatStream(orchestrator, requests, body, model)
            await cancel_on_disconnect(request, stream.start())
            return StreamingResponse(stream.events(), media_type="text/event-stream", headers=streams.HEADERS)
        with param_names(body.param_names):
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


def input_image_urls(body: ChatRequest, service: Service, outputs: frozenset[str]) -> list[str]:
    """The images of the newest message that has any, for the diffusion stages.

    Raises RequestError if the last message has images and no stage can take them. Images of older messages are then
    ignored: the pipeline may have generated them itself.
    """
    newest = next((message for message in reversed(body.messages) if message.image_urls), None)
    if newest is None:
        return []
    takes_none = IMAGE not in outputs or all(card.image == "none" for card in service.cards)
    if takes_none and newest is not body.messages[-1]:
        return []
    if IMAGE not in outputs:
        message = "messages: only a stage that draws takes images: ask for the modality image, where there is one"
        raise RequestError("invalid", message, "messages")
    return newest.image_urls


async def decode_input_images(body: ChatRequest, service: Service, urls: Sequence[str]) -> DecodedImages:
    """The images at these data: URLs. Raises RequestError, naming the field."""
    files = [await asyncio.to_thread(decode_data_url, url, "messages") for url in urls]
    return await service.decode_images(body, files, "messages")


def generation_params(body: ChatRequest, service: Service, decoded: DecodedImages) -> GenerationParams:
    """The parameters of all choices, without their seeds."""
    messages = tuple(Message(role=message.role, content=message.text) for message in body.messages)
    params = GenerationParams(
        prompt=messages[-1].content,
        messages=messages,
        sampling=body.sampling,
        images=list(decoded.images),
        mask=decoded.mask,
        **service.params_of(body),
    )
    return service.sized_like(params, decoded.size)


def choice_requests(
    request: Request, body: ChatRequest, outputs: frozenset[str], params: GenerationParams
) -> list[GenerationRequest]:
    """One request per choice. Choice i has the seed + i."""
    streams_text = bool(body.stream) and TEXT in outputs
    return generation_requests(request, body.seed, body.count, replace(params, stream=streams_text), outputs)


async def _choice(index: int, result: GenerationResult, outputs: frozenset[str], with_logprobs: bool) -> Choice:
    text = result.completion.written if result.completion else None
    return Choice(
        index=index,
        message=Reply(content=await message_content(result, outputs)),
        finish_reason=finish_reason(result),
        logprobs=ChoiceLogprobs(content=to_logprobs(text)) if with_logprobs and text else None,
    )
