"""POST /v1/images/generations."""

import time

from fastapi import APIRouter, Request

from omni_worker.api.answers import ERRORS, check, generate_all, numbered, seeds, unless_disconnected
from omni_worker.api.pictures import in_base64
from omni_worker.api.schemas import ImageData, ImageGenerationRequest, ImageGenerationResponse
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.requests import GenerationParams, GenerationRequest, GenerationResult


def image_routes(orchestrator: Orchestrator, model: str) -> APIRouter:
    """The routes that make pictures."""
    router = APIRouter(tags=["images"])

    @router.post("/v1/images/generations", response_model=ImageGenerationResponse, responses=ERRORS)
    async def generate(body: ImageGenerationRequest, request: Request) -> ImageGenerationResponse:
        """Draw `n` pictures of `prompt`."""
        check(body, model, orchestrator)
        requests = split(request.state.request_id, body)
        results = await unless_disconnected(request, generate_all(orchestrator, requests))
        pictures = [result.images[0] for result in results]
        height, width = pictures[0].shape[:2]
        return ImageGenerationResponse(
            created=int(time.time()),
            data=[
                ImageData(b64_json=file, seed=one.params.seed, revised_prompt=_revised(result))
                for file, one, result in zip(await in_base64(pictures), requests, results, strict=True)
            ],
            size=f"{width}x{height}",
        )

    return router


def split(id: str, body: ImageGenerationRequest) -> list[GenerationRequest]:
    """One request a picture, so that they spread over replicas; picture i has seed + i."""
    return [
        GenerationRequest(
            id=numbered(id, i, body.n), params=GenerationParams(prompt=body.prompt, seed=seed, **body.generation)
        )
        for i, seed in enumerate(seeds(body))
    ]


def _revised(result: GenerationResult) -> str | None:
    """What a stage before the painter made of the prompt."""
    return result.completion.written.text if result.completion else None
