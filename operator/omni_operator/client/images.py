"""Generates images with a running pipeline, from a prompt alone or with images to start from."""

import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import WRONG_OUTPUT_PARAMS, NotAPipeline, connection_errors, require_success
from omni_operator.client.uploads import IMAGE_REQUIRED, Upload, post

REMEDIES = dict.fromkeys(WRONG_OUTPUT_PARAMS, "leave -o out for text, or give -o FILE.mp4 for a video")
POLL_SECONDS = 0.15
PROGRESS_SECONDS = 5.0


def generate_images(
    endpoint: Endpoint, request: dict[str, Any], uploads: Sequence[Upload], console: Console
) -> list[dict[str, Any]]:
    """The images of a request, each an entry of the response's `data`. Raises RequestFailed.

    Shows the denoising steps on the console while the request runs.
    """
    request_id = uuid.uuid4().hex
    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn())
    with (
        endpoint.client() as client,
        ThreadPoolExecutor(1) as pool,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("drawing", total=None)
        images = pool.submit(_post_request, client, endpoint, request, uploads, request_id)
        step_counter = _StepCounter(client, request_id, request["n"])
        most_completed = 0
        while not images.done():
            time.sleep(POLL_SECONDS)
            completed, total = step_counter.fetch()
            most_completed = max(most_completed, completed)
            if total:
                progress.update(task, completed=most_completed, total=total)
        return images.result()


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


class _StepCounter:
    """Counts the denoising steps of all images of a request. The head runs each image as a request of its own."""

    def __init__(self, client: httpx.Client, request_id: str, image_count: int) -> None:
        self._client, self._request_id, self._image_count = client, request_id, image_count
        self._seen: set[str] = set()

    def fetch(self) -> tuple[int, int]:
        """Completed steps and total steps; (0, 0) while unknown. Never fails: the request itself reports errors."""
        try:
            listed = self._client.get("/omni/requests", timeout=PROGRESS_SECONDS).json()["requests"]
            running = {str(row["id"]): row for row in listed if row["client_id"] == self._request_id}
            steps_each = max((int(row["total_steps"]) for row in running.values()), default=0)
            completed = sum(int(row["step"]) for row in running.values())
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return 0, 0
        finished = len(self._seen - running.keys())
        self._seen |= running.keys()
        return completed + finished * steps_each, self._image_count * steps_each
