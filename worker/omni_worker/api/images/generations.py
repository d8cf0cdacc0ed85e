"""POST /v1/images/generations, and what it shares with the route that edits."""

import time
from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from msgspec.structs import replace

from omni_worker.api import streams
from omni_worker.api.generation import ERRORS, generate_all, numbered, seeds, unless_disconnected
from omni_worker.api.images.encoding import in_base64, picture_of
from omni_worker.api.images.schemas import ImageData, ImageEvent, ImageGenerationRequest, ImageRequest, ImageResponse
from omni_worker.api.images.stream import ImageStream, usage_of
from omni_worker.api.openapi import streaming
from omni_worker.api.service import Asked, Service
from omni_worker.requests import GenerationParams, GenerationRequest, GenerationResult

ANSWERS = {**ERRORS, 200: streaming(ImageEvent, "The pictures, or with `stream` the events of one.")}


def image_routes(service: Service) -> APIRouter:
    """The routes that make pictures of a prompt."""
    router = APIRouter(tags=["images"])

    @router.post("/v1/images/generations", response_model=ImageResponse, responses=ANSWERS)
    async def generate(body: ImageGenerationRequest, request: Request) -> ImageResponse | Response:
        """Draw `n` pictures of `prompt`."""
        service.check(body, Asked(body.prompt, body.count))
        return await answer(service, body, request, GenerationParams(prompt=body.prompt, **body.generation))

    return router


async def answer(
    service: Service, body: ImageRequest, request: Request, params: GenerationParams, family: str = "image_generation"
) -> ImageResponse | Response:
    """Pictures made by `params`, or a stream of the events of one, whose names begin with `family`."""
    card = service.card
    requests = split(request.state.request_id, body, params, card.steps if card else None)
    if body.stream:
        stream = ImageStream(service.orchestrator, requests[0], body, family, card.steps if card else None)
        await unless_disconnected(request, stream.start())
        return StreamingResponse(stream.events(), media_type="text/event-stream", headers=streams.HEADERS)
    results = await unless_disconnected(request, generate_all(service.orchestrator, requests))
    pictures = [picture_of(result) for result in results]
    files = await in_base64(pictures, body.format, body.output_compression)
    height, width = pictures[0].shape[:2]
    return ImageResponse(
        created=int(time.time()),
        data=[
            ImageData(b64_json=file, seed=one.params.seed, revised_prompt=_revised(result))
            for file, one, result in zip(files, requests, results, strict=True)
        ],
        size=f"{width}x{height}",
        quality=body.level,
        output_format=body.format,
        usage=usage_of(results),
    )


def split(
    id: str, body: ImageRequest, params: GenerationParams, usual_steps: int | None
) -> Sequence[GenerationRequest]:
    """One request a picture, so that they spread over replicas; picture i has seed + i."""
    steps = body.steps_of(usual_steps)
    return [
        GenerationRequest(id=numbered(id, i, body.count), params=replace(params, seed=seed, steps=steps))
        for i, seed in enumerate(seeds(body.seed, body.count))
    ]


def _revised(result: GenerationResult) -> str | None:
    """What a stage before the painter made of the prompt."""
    return result.completion.written.text if result.completion else None
