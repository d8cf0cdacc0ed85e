"""Generates images with a running pipeline, from a prompt alone or with images to start from."""

from collections.abc import Sequence
from typing import Any

import httpx
from rich.console import Console

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import WRONG_OUTPUT_PARAMS, NotAPipeline, connection_errors, require_success
from omni_operator.client.step_progress import with_step_progress
from omni_operator.client.uploads import IMAGE_REQUIRED, Upload, post

REMEDIES = dict.fromkeys(
    WRONG_OUTPUT_PARAMS, "leave -o out for text, or give -o FILE.mp4 for a video, or FILE.wav for sound"
)


def generate_images(
    endpoint: Endpoint, request: dict[str, Any], uploads: Sequence[Upload], console: Console
) -> list[dict[str, Any]]:
    """The images of a request, each an entry of the response's `data`. Raises RequestFailed.

    Shows the denoising steps on the console while the request runs.
    """

    def send(request_id: str) -> list[dict[str, Any]]:
        return _post_request(client, endpoint, request, uploads, request_id)

    with endpoint.client() as client:
        return with_step_progress(client, console, "drawing", request["n"], send)


def _post_request(
    client: httpx.Client, endpoint: Endpoint, request: dict[str, Any], uploads: Sequence[Upload], request_id: str
) -> list[dict[str, Any]]:
    path = "/v1/images/edits" if uploads else "/v1/images/generations"
    with connection_errors(endpoint):
        response = post(client, path, request, uploads, {"X-Request-Id": request_id})
    require_success(endpoint, response, REMEDIES if uploads else REMEDIES | {"image": IMAGE_REQUIRED})
    try:
        images: list[dict[str, Any]] = response.json()["data"]
    except (ValueError, KeyError, TypeError):
        raise NotAPipeline(endpoint) from None
    return images
