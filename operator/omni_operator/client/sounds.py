"""Generates sound with a running pipeline."""

from typing import Any

import httpx
from rich.console import Console

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import WRONG_OUTPUT_PARAMS, NotAPipeline, connection_errors, require_success
from omni_operator.client.step_progress import with_step_progress

SPEECH = "/v1/audio/speech"
REMEDIES = dict.fromkeys(WRONG_OUTPUT_PARAMS, "give -o FILE.png for a picture, or FILE.mp4 for a video")
SEED_HEADER = "X-Seed"


def generate_sound(endpoint: Endpoint, request: dict[str, Any], console: Console) -> tuple[bytes, int]:
    """The file of a request, and its seed. Raises RequestFailed.

    Shows the denoising steps on the console while the request runs.
    """

    def send(request_id: str) -> httpx.Response:
        with connection_errors(endpoint):
            return client.post(SPEECH, json=request, headers={"X-Request-Id": request_id})

    with endpoint.client() as client:
        response = with_step_progress(client, console, "composing", 1, send)
    require_success(endpoint, response, REMEDIES)
    seed = response.headers.get(SEED_HEADER, "")
    if not seed.isdecimal():
        raise NotAPipeline(endpoint)
    return response.content, int(seed)
