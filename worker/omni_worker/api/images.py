"""POST /v1/images/generations."""

import asyncio
import base64
import io
import secrets
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter, Request
from PIL import Image

from omni_worker.api.errors import ApiError
from omni_worker.api.schemas import ErrorResponse, ImageData, ImageGenerationRequest, ImageGenerationResponse
from omni_worker.errors import RequestError
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.requests import SEED_LIMIT, GenerationParams, GenerationRequest, ModelCard

RANDOM_SEEDS = 2**32
Result = TypeVar("Result")


def image_routes(orchestrator: Orchestrator, model: str) -> APIRouter:
    """The routes that make pictures."""
    router = APIRouter(tags=["images"])

    @router.post(
        "/v1/images/generations",
        response_model=ImageGenerationResponse,
        responses={status: {"model": ErrorResponse} for status in (400, 404, 429, 500, 503)},
    )
    async def generate(body: ImageGenerationRequest, request: Request) -> ImageGenerationResponse:
        """Draw `n` pictures of `prompt`."""
        if body.model not in (None, model):
            raise ApiError(
                404, f"there is no model {body.model!r}; this server has {model!r}", "model", "model_not_found"
            )
        for member in orchestrator.pools[-1].up[:1]:
            check(body, member.replica.card)
        requests = split(request.state.request_id, body)
        pictures = await unless_disconnected(request, _generate_all(orchestrator, requests))
        height, width = pictures[0].shape[:2]
        files = await asyncio.gather(*(asyncio.to_thread(png, picture) for picture in pictures))
        return ImageGenerationResponse(
            created=int(time.time()),
            data=[
                ImageData(b64_json=base64.b64encode(file).decode(), seed=one.params.seed)
                for file, one in zip(files, requests, strict=True)
            ],
            size=f"{width}x{height}",
        )

    return router


def check(body: ImageGenerationRequest, card: ModelCard) -> None:
    """Refuse at once what the model would refuse later. Raises RequestError, naming the field."""
    width, height = body.width_and_height
    if width and height and not card.sized:
        raise RequestError("invalid", f"{card.pipeline} has a fixed size: leave size out", "size")
    for side, length in (("width", width), ("height", height)):
        if length and length % card.size_multiple:
            raise RequestError(
                "invalid", f"size {body.size!r}: the {side} must be a multiple of {card.size_multiple}", "size"
            )
    if body.negative_prompt is not None and not card.negative_prompt:
        raise RequestError("invalid", f"{card.pipeline} takes no negative prompt", "negative_prompt")
    if body.guidance is not None and not card.guidance:
        raise RequestError("invalid", f"{card.pipeline} takes no guidance", "guidance_scale")


def split(id: str, body: ImageGenerationRequest) -> list[GenerationRequest]:
    """One request a picture, so that they spread over replicas; picture i has seed + i."""
    width, height = body.width_and_height
    first = secrets.randbelow(RANDOM_SEEDS) if body.seed is None else body.seed
    return [
        GenerationRequest(
            id=id if body.n == 1 else f"{id}-{i}",
            params=GenerationParams(
                prompt=body.prompt,
                negative_prompt=body.negative_prompt,
                width=width,
                height=height,
                steps=body.steps,
                guidance=body.guidance,
                seed=(first + i) % SEED_LIMIT,
                priority=body.priority,
                tenant=body.tenant or body.user or "",
                deadline_seconds=body.deadline,
            ),
        )
        for i in range(body.n)
    ]


async def _generate_all(orchestrator: Orchestrator, requests: list[GenerationRequest]) -> list[np.ndarray]:
    """All pictures; where one fails the rest are aborted, for the answer is lost with it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(orchestrator.generate(request)) for request in requests]
    except* RequestError as errors:
        raise errors.exceptions[0] from None
    return [task.result().images[0] for task in tasks]


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled as soon as the client is gone. Raises ApiError 499 then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client closed the connection", code="aborted")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def png(picture: np.ndarray) -> bytes:
    """A PNG file of a uint8 picture of shape (height, width, channels); grey where there is one channel."""
    file = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(file, "PNG", compress_level=1)
    return file.getvalue()
