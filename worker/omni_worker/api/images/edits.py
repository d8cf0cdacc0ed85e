"""POST /v1/images/edits: new images from input images, optionally within a mask."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec.structs import replace

from omni_worker.api.errors import ApiError
from omni_worker.api.forms import form_body, read_form
from omni_worker.api.generation import ERROR_RESPONSES, cancel_on_disconnect
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
        "description": "The input image, or several if the pipeline accepts them: PNG, JPEG or WebP files. "
        "Also as `image[]`.",
    },
    "mask": FILE
    | {
        "description": "A file as large as the first image, transparent where it should change. Without a mask, the "
        "transparent area of the image itself changes."
    },
}
BODY = form_body(ImageEditRequest, FILES, ["image"])
RESPONSES = {**ERROR_RESPONSES, 200: stream_response(ImageEvent, "The images, or with `stream` the events of one.")}
NO_VARIATIONS = "this server does not support variations: POST /v1/images/edits takes an image together with a prompt"


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
        images, masks = files["image"], files.get("mask", ())
        service.check(body, RouteInputs(body.prompt, body.count, len(images), bool(masks), body.strength))
        decoded = await cancel_on_disconnect(request, service.decode_images(body, images, "image", masks))
        params = GenerationParams(prompt=body.prompt, **service.params_of(body))
        params = replace(params, images=list(decoded.images), mask=decoded.mask, strength=body.strength)
        params = await cancel_on_disconnect(request, service.with_decoded_images(params))
        params = service.sized_like(params, decoded.size)
        return await respond_with_images(service, body, request, params, "image_edit")

    unsupported_route(router, "/v1/images/variations", NO_VARIATIONS)
    return router
