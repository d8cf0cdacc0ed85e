"""Shows the denoising steps of a request while it runs."""

import threading
import uuid
from collections.abc import Callable
from typing import TypeVar

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

POLL_SECONDS = 0.15
PROGRESS_SECONDS = 5.0

Answer = TypeVar("Answer")


def with_step_progress(
    client: httpx.Client, console: Console, label: str, count: int, send: Callable[[str], Answer]
) -> Answer:
    """What `send` returns, which gets the id to send a request for `count` results with (`X-Request-Id`).

    The request runs in the calling thread, so that Ctrl-C ends it at once: its connection closes, and the pipeline
    stops working on it.
    """
    request_id = uuid.uuid4().hex
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=None)
        has_ended = threading.Event()

        def follow() -> None:
            step_counter, most_completed = _StepCounter(client, request_id, count), 0
            while not has_ended.wait(POLL_SECONDS):
                completed, total = step_counter.fetch()
                most_completed = max(most_completed, completed)
                if total:
                    progress.update(task, completed=most_completed, total=total)

        threading.Thread(target=follow, name="step-progress", daemon=True).start()
        try:
            return send(request_id)
        finally:
            has_ended.set()


class _StepCounter:
    """Counts the denoising steps of all results of a request. The head runs each of them as a request of its own."""

    def __init__(self, client: httpx.Client, request_id: str, count: int) -> None:
        self._client, self._request_id, self._count = client, request_id, count
        self._seen: set[str] = set()

    def fetch(self) -> tuple[int, int]:
        """Completed steps and total steps; (0, 0) while unknown. Never fails: the request itself reports errors."""
        try:
            listed = self._client.get("/omni/requests", timeout=PROGRESS_SECONDS).json()["requests"]
            running = {str(row["id"]): row for row in listed if row["client_id"] == self._request_id}
            steps_each = max((int(row["total_steps"]) for row in running.values()), default=0)
            completed = sum(int(row["step"]) for row in running.values())
        except (httpx.HTTPError, RuntimeError, ValueError, KeyError, TypeError):  # RuntimeError: the client is closed
            return 0, 0
        finished = len(self._seen - running.keys())
        self._seen |= running.keys()
        return completed + finished * steps_each, self._count * steps_each
