"""POST /v1/images/edits: new images from input images, optionally within a mask."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec.structs import replace

from omni_worker.api.errors import ApiError
from omni_worker.api.forms import form_body, read_form
from omni_worker.api.generation import ERROR_RESPONSES
from omni_worker.api.images.decoding import decode_image, to_arrays
from omni_worker.api.images.generations import respond_with_images
from omni_worker.api.images.schemas import ImageEditRequest, ImageEvent, ImageResponse
from omni_worker.api.openapi import stream_response, unsupported_route
from omni_worker.api.service import RouteInputs, Service
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
BODY = form_body(ImageEditRequest, FILES, ["image"])
RESPONSES = {**ERROR_RESPONSES, 200: stream_response(ImageEvent, "The pictures, or with `stream` the events of one.")}
NO_VARIATIONS = "this server makes no variations: POST /v1/images/edits takes a picture together with a prompt"


def edit_routes(service: Service) -> APIRouter:
    """The routes that edit images."""
    router = APIRouter(tags=["images"])

    @router.post("/v1/images/edits", response_model=ImageResponse, responses=RESPONSES, openapi_extra=BODY)
    async def edit(request: Request) -> ImageResponse | Response:
        """Draw `n` pictures from those that are sent, by `prompt`."""
        body, files = await read_form(request, ImageEditRequest, frozenset(FILES))
        if "image" not in files:
            raise ApiError(400, "missing parameter: 'image'", "image", "missing_parameter")
        if len(files.get("mask", ())) > 1:
            raise ApiError(400, "mask: one file is enough", "mask", "invalid_value")
        max_pixels = service.limits.pixels
        images = [await decode_image(file, "image", max_pixels) for file in files["image"]]
        masks = [await decode_image(file, "mask", max_pixels) for file in files.get("mask", ())]
        size = service.input_image_size(body)
        arrays, mask = await asyncio.to_thread(to_arrays, images, masks, size, service.takes_mask)
        service.check(body, RouteInputs(body.prompt, body.count, arrays, mask, body.strength))
        params = GenerationParams(prompt=body.prompt, **body.generation)
        params = replace(params, images=arrays, mask=mask, strength=body.strength)
        return await respond_with_images(service, body, request, params, "image_edit")

    unsupported_route(router, "/v1/images/variations", NO_VARIATIONS)
    return router
