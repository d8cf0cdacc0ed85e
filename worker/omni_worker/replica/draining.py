"""The requests that a replica has accepted, and what happens to them when it drains.

A replica that drains finishes the requests that run. It hands back to the heads, which run them on another replica:
the requests that only wait, as soon as a head asks for that, and everything that is left when the time is over.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from omni_worker.replica.wire.messages import Error
from omni_worker.replica.wire.outgoing import Outgoing
from omni_worker.requests import GenerationParams

HANDED_BACK = "this replica is going away; the request is handed back"
FLUSH_SECONDS = 1.0  # for the last messages to reach the sockets
LAST_FRAMES_SECONDS = 0.1  # for the last frames to leave the sockets


@dataclass
class OpenRequest:
    """A request that the replica accepted and has not answered yet.

    peer: the head that sent it, as ZeroMQ identifies it
    params: what it asks for
    step: the last step that was reported to the head
    has_begun: whether the engine has reported progress on it
    is_handed_back: whether it is aborted in order to run on another replica
    """

    peer: bytes
    params: GenerationParams
    step: int = 0
    has_begun: bool = False
    is_handed_back: bool = False


class OpenRequests:
    """The open requests by id, in the order in which they were accepted."""

    def __init__(self) -> None:
        self._requests: dict[str, OpenRequest] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __contains__(self, id: str) -> bool:
        return id in self._requests

    def __iter__(self) -> Iterator[str]:
        return iter(self._requests)

    def __getitem__(self, id: str) -> OpenRequest:
        return self._requests[id]

    def get(self, id: str) -> OpenRequest | None:
        """The request, or None if it is not open."""
        return self._requests.get(id)

    def add(self, id: str, peer: bytes, params: GenerationParams) -> None:
        """Open a request of this head."""
        self._requests[id] = OpenRequest(peer, params)
        self._empty.clear()

    def close(self, id: str) -> None:
        """Forget a request. Does nothing if it is not open."""
        self._requests.pop(id, None)
        if not self._requests:
            self._empty.set()

    @property
    def peers(self) -> set[bytes]:
        """The heads that have requests here."""
        return {request.peer for request in self._requests.values()}

    def of_peer(self, peer: bytes) -> list[str]:
        """The ids of a head's requests."""
        return [id for id, request in self._requests.items() if request.peer == peer]

    async def wait_empty(self) -> None:
        """Return as soon as no request is open."""
        await self._empty.wait()


class Draining:
    """Ends a replica's work. `abort` ends a request in the engine; `close` forgets one, with the error of its span."""

    def __init__(
        self,
        requests: OpenRequests,
        outgoing: Outgoing,
        abort: Callable[[str], None],
        close: Callable[[str, str], None],
    ) -> None:
        self.has_begun = False
        self._requests = requests
        self._outgoing = outgoing
        self._abort = abort
        self._close = close

    async def run(self, timeout: float) -> bool:
        """Wait until all requests have ended; returns False if some were handed back after `timeout` seconds."""
        self.has_begun = True
        unfinished = []
        try:
            async with asyncio.timeout(timeout):
                await self._requests.wait_empty()
        except TimeoutError:
            unfinished = list(self._requests)
            for id in unfinished:
                self._hand_back_running(id)
        with contextlib.suppress(TimeoutError):  # a head may not read
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._outgoing.wait_empty()
        await asyncio.sleep(LAST_FRAMES_SECONDS)
        return not unfinished

    def hand_back_waiting(self) -> None:
        """Hand back what has not begun. The engine confirms each between two steps, and only then is it answered."""
        if not self.has_begun:
            return
        for id in list(self._requests):
            request = self._requests[id]
            if not request.has_begun and not request.is_handed_back:
                request.is_handed_back = True
                self._abort(id)

    def _hand_back_running(self, id: str) -> None:
        """Hand back at once, without waiting for the step to end."""
        self._outgoing.put(self._requests[id].peer, handed_back(id))
        self._abort(id)
        self._close(id, HANDED_BACK)


def handed_back(id: str) -> Error:
    """The answer for a request that another replica must run."""
    return Error(id, "refused", HANDED_BACK)
