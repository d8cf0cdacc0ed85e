"""A video from a running pipeline: a job that is asked after until it is done, and then downloaded."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import OF_ANOTHER_KIND, GenerationFailed, NotAPipeline, connection, require_success
from omni_operator.client.uploads import GIVE_ONE, Upload, send

VIDEOS = "/v1/videos"
REMEDIES = dict.fromkeys(OF_ANOTHER_KIND, "give -o FILE.png for a picture")
POLL_SECONDS = 0.5


def filmed(
    where: Endpoint, request: dict[str, Any], uploads: Sequence[Upload], console: Console
) -> tuple[bytes, int | None]:
    """The MP4 file that a request gives, and its seed; shows how far it is. Raises GenerationFailed.

    A job that is no longer waited for is deleted, and so is one that has been downloaded.
    """
    columns = (TextColumn("filming"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with (
        connection(where),
        where.client() as client,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        remedies = REMEDIES if uploads else REMEDIES | {"input_reference": GIVE_ONE}
        job = asked(where, send(client, VIDEOS, request, uploads), remedies)
        try:
            task = progress.add_task("filming", total=100)
            while job["status"] in ("queued", "in_progress"):
                time.sleep(POLL_SECONDS)
                job = asked(where, client.get(f"{VIDEOS}/{job['id']}"), REMEDIES)
                progress.update(task, completed=job.get("progress", 0))
            if job["status"] != "completed":
                reason = (job.get("error") or {}).get("message", job["status"])
                raise GenerationFailed(f"{where.description} could not make the video: {reason}")
            answer = client.get(f"{VIDEOS}/{job['id']}/content")
            require_success(where, answer)
            return answer.content, job.get("seed")
        finally:
            client.delete(f"{VIDEOS}/{job['id']}")


def asked(where: Endpoint, answer: httpx.Response, remedies: Mapping[str, str]) -> dict[str, Any]:
    """A job, as it is told. Raises GenerationFailed."""
    require_success(where, answer, remedies)
    try:
        job: dict[str, Any] = answer.json()
        if not (isinstance(job["id"], str) and isinstance(job["status"], str)):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise NotAPipeline(where) from None
    return job
