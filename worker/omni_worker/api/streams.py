"""Answers as server-sent events: what all streams have in common."""

import asyncio
import json
import logging
from typing import Any

from omni_worker.api.errors import error_body
from omni_worker.errors import RequestError

log = logging.getLogger(__name__)
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
START_SECONDS = 10.0  # so long a stream waits for its first news: what fails until then is an error and no stream
QUIET_SECONDS = 15.0  # after which a comment is sent, lest something between here and the client take it for dead
KEEP_ALIVE = ": still at work\n\n"


class Stream:
    """A request that is told of while it runs. Its kinds say what runs and make events of the news.

    What the client has not read yet is kept as one piece, so that a slow reader costs no more than the answer itself.
    """

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, and wait a while for the first news. Raises RequestError."""
        self._task = asyncio.create_task(self._generate())
        self._task.add_done_callback(lambda done: self._news.set())
        try:
            await self._more(START_SECONDS)
        except asyncio.CancelledError:
            await self.stop()
            raise
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """End what runs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _generate(self) -> None:
        """Run the request."""
        raise NotImplementedError

    async def _more(self, seconds: float = QUIET_SECONDS) -> bool:
        """Whether there is news, or will be within some seconds."""
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return False
        return True

    @property
    def _failure(self) -> dict[str, Any] | None:
        """The error that the request ended with."""
        if self._task is None or not self._task.done() or (error := self._task.exception()) is None:
            return None
        if isinstance(error, RequestError):
            return error_body(error)
        log.error("a stream failed", exc_info=error)
        message = f"the server failed: {type(error).__name__}"
        return {"error": {"message": message, "type": "server_error", "param": None, "code": "internal_error"}}


def event(value: Any, kind: str | None = None) -> str:
    """One event, of a kind where kinds are told apart by name."""
    name = f"event: {kind}\n" if kind else ""
    return f"{name}data: {json.dumps(value, ensure_ascii=False)}\n\n"
