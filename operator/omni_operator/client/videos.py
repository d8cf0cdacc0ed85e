"""Generates a video with a running pipeline: starts a job, polls it until it ends, and downloads the file."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import (
    WRONG_OUTPUT_PARAMS,
    NotAPipeline,
    RequestFailed,
    connection_errors,
    require_success,
)
from omni_operator.client.uploads import IMAGE_REQUIRED, Upload, post

VIDEOS = "/v1/videos"
REMEDIES = dict.fromkeys(WRONG_OUTPUT_PARAMS, "give -o FILE.png for a picture, or FILE.wav for sound")
POLL_SECONDS = 0.5


def generate_video(
    endpoint: Endpoint, request: dict[str, Any], uploads: Sequence[Upload], console: Console
) -> tuple[bytes, int | None]:
    """The MP4 file of a request, and its seed. Raises RequestFailed.

    Shows the progress on the console. Deletes the job afterwards, whether it was downloaded, failed or interrupted.
    """
    columns = (TextColumn("filming"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    remedies = REMEDIES if uploads else REMEDIES | {"input_reference": IMAGE_REQUIRED}
    with (
        connection_errors(endpoint),
        endpoint.client() as client,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        job = _parse_job(endpoint, post(client, VIDEOS, request, uploads), remedies)
        try:
            task = progress.add_task("filming", total=100)
            while job["status"] in ("queued", "in_progress"):
                time.sleep(POLL_SECONDS)
                job = _parse_job(endpoint, client.get(f"{VIDEOS}/{job['id']}"), REMEDIES)
                progress.update(task, completed=job.get("progress", 0))
            if job["status"] != "completed":
                reason = (job.get("error") or {}).get("message", job["status"])
                raise RequestFailed(f"{endpoint.description} could not make the video: {reason}")
            file = client.get(f"{VIDEOS}/{job['id']}/content")
            require_success(endpoint, file)
            return file.content, job.get("seed")
        finally:
            client.delete(f"{VIDEOS}/{job['id']}")


def _parse_job(endpoint: Endpoint, response: httpx.Response, remedies: Mapping[str, str]) -> dict[str, Any]:
    """The job in a response, with at least `id` and `status`. Raises RequestFailed."""
    require_success(endpoint, response, remedies)
    try:
        job: dict[str, Any] = response.json()
        if not (isinstance(job["id"], str) and isinstance(job["status"], str)):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise NotAPipeline(endpoint) from None
    return job
