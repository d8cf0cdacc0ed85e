"""Pictures from a running pipeline: of a prompt alone, or of pictures to start from."""

import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import OF_ANOTHER_KIND, NotAPipeline, connection, require_success
from omni_operator.client.uploads import GIVE_ONE, Upload, send

REMEDIES = dict.fromkeys(OF_ANOTHER_KIND, "leave -o out for text, or give -o FILE.mp4 for a video")
POLL_SECONDS = 0.15


def drawn(
    where: Endpoint, request: dict[str, Any], uploads: Sequence[Upload], console: Console
) -> list[dict[str, Any]]:
    """The pictures that a request gives, with their seeds; shows its steps while it runs. Raises GenerationFailed."""
    identity = uuid.uuid4().hex
    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn())
    with (
        where.client() as client,
        ThreadPoolExecutor(1) as pool,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("drawing", total=None)
        answer = pool.submit(post, client, where, request, uploads, identity)
        seen: set[str] = set()
        furthest = 0
        while not answer.done():
            time.sleep(POLL_SECONDS)
            done, total = steps(client, identity, request["n"], seen)
            furthest = max(furthest, done)
            if total:
                progress.update(task, completed=furthest, total=total)
        return answer.result()


def post(
    client: httpx.Client, where: Endpoint, request: dict[str, Any], uploads: Sequence[Upload], identity: str
) -> list[dict[str, Any]]:
    path = "/v1/images/edits" if uploads else "/v1/images/generations"
    with connection(where):
        response = send(client, path, request, uploads, {"X-Request-Id": identity})
    require_success(where, response, REMEDIES if uploads else REMEDIES | {"image": GIVE_ONE})
    try:
        pictures: list[dict[str, Any]] = response.json()["data"]
    except (ValueError, KeyError, TypeError):
        raise NotAPipeline(where) from None
    return pictures


def steps(client: httpx.Client, identity: str, count: int, seen: set[str]) -> tuple[int, int]:
    """Steps done, and steps in all, of a request's pictures; (0, 0) while unknown. `seen` is kept between calls."""
    try:
        rows = client.get("/omni/requests", timeout=5.0).json()["requests"]
        own = {str(row["id"]): row for row in rows if str(row["id"]).partition("-")[0] == identity}
        each = max((int(row["total_steps"]) for row in own.values()), default=0)
        running = sum(int(row["step"]) for row in own.values())
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return 0, 0  # progress is a courtesy: the request itself tells what is wrong
    finished = len(seen - own.keys())
    seen |= own.keys()
    return running + finished * each, count * each
