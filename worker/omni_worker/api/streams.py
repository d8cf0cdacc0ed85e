"""Server-sent events: what the streams of all routes have in common."""

import asyncio
import json
import logging
from typing import Any

from omni_worker.api.errors import error_body
from omni_worker.errors import RequestError

log = logging.getLogger(__name__)
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Headers that keep proxies from storing or buffering a stream."""
START_SECONDS = 10.0
"""How long a stream waits for its first update. A request that fails within it is answered with an HTTP error."""
QUIET_SECONDS = 15.0
"""After so long without an event a comment is sent, so that no proxy closes the connection as idle."""
KEEP_ALIVE = ": still at work\n\n"


class Stream:
    """A running request whose progress is sent as events. Subclasses implement `_generate` and make the events.

    Updates that the client has not read yet are merged, so that a slow reader costs no more memory than the result.
    """

    def __init__(self) -> None:
        self._updated = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the request and wait up to START_SECONDS for its first update. Raises RequestError if it fails."""
        self._task = asyncio.create_task(self._generate())
        self._task.add_done_callback(lambda task: self._updated.set())
        try:
            await self._wait_for_update(START_SECONDS)
        except asyncio.CancelledError:
            await self.stop()
            raise
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Abort the request if it still runs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _generate(self) -> None:
        """Run the request. Store its updates and set `_updated` after each."""
        raise NotImplementedError

    async def _wait_for_update(self, seconds: float = QUIET_SECONDS) -> bool:
        """Whether there is an update now or within `seconds`."""
        try:
            await asyncio.wait_for(self._updated.wait(), seconds)
        except TimeoutError:
            return False
        return True

    @property
    def _failure(self) -> dict[str, Any] | None:
        """The error body of a request that failed; None for one that did not, or still runs."""
        if self._task is None or not self._task.done() or (error := self._task.exception()) is None:
            return None
        if isinstance(error, RequestError):
            return error_body(error)
        log.error("a stream failed", exc_info=error)
        message = f"the server failed: {type(error).__name__}"
        return {"error": {"message": message, "type": "server_error", "param": None, "code": "internal_error"}}


def format_event(data: Any, name: str | None = None) -> str:
    """One event, with `data` as JSON in ASCII: some clients take U+2028 or U+0085 for the end of a line."""
    field = f"event: {name}\n" if name else ""
    return f"{field}data: {json.dumps(data)}\n\n"
