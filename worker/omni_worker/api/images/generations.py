"""POST /v1/images/generations, and the response that it shares with /v1/images/edits."""

import time
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse
from msgspec.structs import replace

from omni_worker.api import streams
from omni_worker.api.forms import json_body, json_description
from omni_worker.api.generation import (
    ERROR_RESPONSES,
    cancel_on_disconnect,
    generate_all,
    generation_requests,
    param_names,
)
from omni_worker.api.images.encoding import encode_base64, image_of
from omni_worker.api.images.schemas import ImageBody, ImageData, ImageEvent, ImageGenerationRequest, ImageResponse
from omni_worker.api.images.stream import ImageStream, image_usage
from omni_worker.api.openapi import stream_response
from omni_worker.api.service import RouteInputs, Service
from omni_worker.requests import GenerationParams, GenerationRequest, GenerationResult

BODY = json_description(ImageGenerationRequest)
RESPONSES = {**ERROR_RESPONSES, 200: stream_response(ImageEvent, "The pictures, or with `stream` the events of one.")}


def image_routes(service: Service) -> APIRouter:
    """The route that generates images from a prompt."""
    router = APIRouter(tags=["images"])

    @router.post("/v1/images/generations", response_model=ImageResponse, responses=RESPONSES, openapi_extra=BODY)
    async def generate(
        body: Annotated[ImageGenerationRequest, Depends(json_body(ImageGenerationRequest))], request: Request
    ) -> ImageResponse | Response:
        """Draw `n` pictures of `prompt`."""
        service.check(body, RouteInputs(body.prompt, body.count))
        params = GenerationParams(prompt=body.prompt, **service.params_of(body))
        params = await cancel_on_disconnect(request, service.with_decoded_images(params))
        return await respond_with_images(service, body, request, params)

    return router


async def respond_with_images(
    service: Service,
    body: ImageBody,
    request: Request,
    params: GenerationParams,
    event_prefix: str = "image_generation",
) -> ImageResponse | Response:
    """The images that `params` generate, or the stream of one, whose event names start with `event_prefix`."""
    default_steps = service.card.steps if service.card else None
    requests = image_requests(request, body, params, default_steps)
    with param_names(body.param_names):
        service.check_params(requests[0].params)
    if body.stream:
        stream = ImageStream(service.orchestrator, requests[0], body, event_prefix, default_steps)
        await cancel_on_disconnect(request, stream.start())
        return StreamingResponse(stream.events(), media_type="text/event-stream", headers=streams.HEADERS)
    with param_names(body.param_names):
        results = await cancel_on_disconnect(request, generate_all(service.orchestrator, requests))
    images = [image_of(result) for result in results]
    files = await encode_base64(images, body.format, body.output_compression)
    height, width = images[0].shape[:2]
    return ImageResponse(
        created=int(time.time()),
        data=[
            ImageData(b64_json=file, seed=generation.params.seed, revised_prompt=_revised_prompt(result))
            for file, generation, result in zip(files, requests, results, strict=True)
        ],
        size=f"{width}x{height}",
        quality=body.effective_quality,
        output_format=body.format,
        usage=image_usage(results),
    )


def image_requests(
    request: Request, body: ImageBody, params: GenerationParams, default_steps: int | None
) -> Sequence[GenerationRequest]:
    """One request per image, so that they spread over the replicas."""
    params = replace(params, steps=body.denoising_steps(default_steps))
    return generation_requests(request, body.seed, body.count, params)


def _revised_prompt(result: GenerationResult) -> str | None:
    """The prompt that a text stage wrote for the diffusion stage, if there is one."""
    return result.completion.written.text if result.completion else None
