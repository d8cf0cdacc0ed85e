"""POST /v1/images/edits: pictures made from pictures, whole or within a mask."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec.structs import replace

from omni_worker.api.errors import ApiError
from omni_worker.api.forms import form_description, read_form
from omni_worker.api.generation import ERRORS
from omni_worker.api.images.decoding import arrays, opened
from omni_worker.api.images.generations import answer
from omni_worker.api.images.schemas import ImageEditRequest, ImageEvent, ImageResponse
from omni_worker.api.openapi import refused_route, streaming
from omni_worker.api.service import Asked, Service
from omni_worker.requests import GenerationParams

FILE = {"type": "string", "format": "binary"}
FILES: dict[str, dict[str, Any]] = {
    "image": {
        "type": "array",
        "items": FILE,
        "minItems": 1,
        "description": "The picture to start from, or several where the pipeline takes them: PNG, JPEG or WebP files. "
        "Also as `image[]`.",
    },
    "mask": FILE
    | {
        "description": "A file as large as the first picture; what is transparent in it is painted anew. Where none is "
        "sent, what is transparent in the picture itself."
    },
}
BODY = form_description(ImageEditRequest, FILES, ["image"])
ANSWERS = {**ERRORS, 200: streaming(ImageEvent, "The pictures, or with `stream` the events of one.")}
NO_VARIATIONS = "this server makes no variations: POST /v1/images/edits takes a picture together with a prompt"


def edit_routes(service: Service) -> APIRouter:
    """The routes that make pictures of pictures."""
    router = APIRouter(tags=["images"])

    @router.post("/v1/images/edits", response_model=ImageResponse, responses=ANSWERS, openapi_extra=BODY)
    async def edit(request: Request) -> ImageResponse | Response:
        """Draw `n` pictures from those that are sent, by `prompt`."""
        body, files = await read_form(request, ImageEditRequest, frozenset(FILES))
        if "image" not in files:
            raise ApiError(400, "missing parameter: 'image'", "image", "missing_parameter")
        if len(files.get("mask", ())) > 1:
            raise ApiError(400, "mask: one file is enough", "mask", "invalid_value")
        most = service.limits.pixels
        pictures = [await opened(file, "image", most) for file in files["image"]]
        masks = [await opened(file, "mask", most) for file in files.get("mask", ())]
        images, mask = await asyncio.to_thread(arrays, pictures, masks, service.scaled_to(body), service.takes_mask)
        service.check(body, Asked(body.prompt, body.count, images, mask, body.strength))
        params = GenerationParams(prompt=body.prompt, **body.generation)
        params = replace(params, images=images, mask=mask, strength=body.strength)
        return await answer(service, body, request, params, "image_edit")

    refused_route(router, "/v1/images/variations", NO_VARIATIONS)
    return router
