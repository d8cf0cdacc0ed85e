"""Notices a replica that fails requests through no fault of theirs, and lets it run a request of its own.

A broken replica fails fast and would attract requests as the one with the shortest queue. If its own request fails too,
it must end. If that succeeds, the failures were the requests' own, so clients cannot end a replica by bad requests.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from omni_worker.engine.scheduler import Finished, RequestStatus
from omni_worker.errors import RequestError
from omni_worker.requests import GenerationParams

log = logging.getLogger(__name__)
MAX_FAILURES = 3  # failures in a row after which the replica checks itself
PAUSE_SECONDS = 10.0  # between two checks, so that bad requests cost little

SHORTENED = {"steps": 2, "preview_every": 0, "stream": False, "deadline_seconds": None, "loras": ()}

RunLocally = Callable[[str, GenerationParams], Awaitable[Finished]]


class SelfCheck:
    """Counts the replica's failures in a row. `run_locally` runs a request of the replica's own before all others.

    example: a request that the replica can serve, as far as is known: one of the warm-up, or else the first that it
        served for a client; without one it cannot check itself
    """

    def __init__(self, run_locally: RunLocally) -> None:
        self.example: GenerationParams | None = None
        self._run_locally = run_locally
        self._failures = 0
        self._is_due = asyncio.Event()
        self._numbers = itertools.count()

    def on_finished(self, event: Finished, params: GenerationParams | None) -> None:
        """Take the end of a client's request, with its parameters if it was not given up before."""
        if event.status is RequestStatus.COMPLETED:
            self._failures = 0
            if self.example is None and params is not None:
                self.example = replace(params, **SHORTENED)
        elif event.status is RequestStatus.FAILED and is_no_fault_of_request(event.error):
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                self._is_due.set()

    async def run(self) -> str:
        """Check the replica whenever that is due. Returns the reason why it must end, as soon as there is one."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            failures, self._failures = self._failures, 0
            if self.example is None:
                log.warning("%d requests in a row failed, and this replica has no request to check itself", failures)
            else:
                event = await self._run_locally(f"self-check-{next(self._numbers)}", self.example)
                if event.status is RequestStatus.FAILED and is_no_fault_of_request(event.error):
                    return f"{failures} requests in a row failed, and so did one of the replica's own: {event.error!r}"
                log.warning("%d requests in a row failed; the replica's own one did not: it continues", failures)
            await asyncio.sleep(PAUSE_SECONDS)


def is_no_fault_of_request(error: Exception | None) -> bool:
    """Whether a failure may be the replica's own: it is not a rejection, and not a lack of memory."""
    if isinstance(error, RequestError):
        return error.kind == "failed"
    from omni_worker.device.out_of_memory import is_out_of_memory  # imports torch, which is loaded by now

    return error is not None and not is_out_of_memory(error)
