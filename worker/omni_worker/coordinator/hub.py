"""A subscriber of the coordinator: keeps a view of all replicas, and tells its owner what changed.

When the coordinator falls silent the last view stays: routing goes on with it.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import zmq
import zmq.asyncio
from msgspec.structs import replace

from omni_worker.coordinator.messages import MALFORMED, Delta, Replica, Snapshot, State, decode_publication
from omni_worker.transport.keys import CurveKeys
from omni_worker.transport.sockets import make_socket

log = logging.getLogger(__name__)
ASK_AGAIN_SECONDS = 1.0


class View:
    """What a hub knows. Pure: takes publications, gives the replicas that changed (one that left comes as DOWN)."""

    def __init__(self) -> None:
        self.replicas: dict[tuple[int, int], Replica] = {}
        self._incarnation = ""
        self._sequence = -1

    def apply(self, publication: Delta | Snapshot) -> list[Replica] | None:
        """The changes; None where something was missed and only a snapshot can help."""
        if isinstance(publication, Snapshot):
            return self._replace(publication)
        if publication.incarnation != self._incarnation or publication.sequence > self._sequence + 1:
            return None
        if publication.sequence <= self._sequence:
            return []
        self._sequence = publication.sequence
        changed = publication.changed.replicas
        for replica in changed:
            if replica.state is State.DOWN:
                self.replicas.pop(replica.key, None)
            else:
                self.replicas[replica.key] = replica
        for new in publication.loads:
            known = self.replicas.get((new.stage_id, new.replica_id))
            if known is not None and known.load != new.load:
                loaded = self.replicas[known.key] = replace(known, load=new.load)
                changed.append(loaded)
        return changed

    def _replace(self, snapshot: Snapshot) -> list[Replica]:
        if snapshot.incarnation == self._incarnation and snapshot.sequence < self._sequence:
            return []
        before, self.replicas = self.replicas, {replica.key: replica for replica in snapshot.all.replicas}
        self._incarnation, self._sequence = snapshot.incarnation, snapshot.sequence
        gone = [
            replace(replica, state=State.DOWN)
            for key, replica in before.items()
            if key not in self.replicas or self.replicas[key].uid != replica.uid
        ]
        return gone + [replica for key, replica in self.replicas.items() if before.get(key) != replica]


class Hub:
    """Follows the coordinator at `address`; `on_change` is called in the event loop with the replicas that changed.

    `heard` is when the coordinator last said something, if only that nothing changed.
    """

    def __init__(self, address: str, on_change: Callable[[list[Replica]], None], keys: CurveKeys | None = None) -> None:
        self.malformed = 0
        self.heard = time.monotonic()
        self._address = address
        self._on_change = on_change
        self._view = View()
        self._asked = float("-inf")
        self._socket = make_socket(zmq.asyncio.Context.instance(), zmq.SUB, keys)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Subscribe."""
        self._socket.connect(self._address)
        self._socket.subscribe(b"")
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Unsubscribe."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close(linger=0)

    async def _follow(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            self.heard = time.monotonic()
            try:
                (frame,) = frames
                changed = self._view.apply(decode_publication(frame))
            except MALFORMED:
                self.malformed += 1
                continue
            if changed is None:
                self._ask_for_a_snapshot()
            elif changed:
                try:
                    self._on_change(changed)
                except Exception:  # whatever its owner made of it, the next change is to be heard
                    log.exception("a change of the membership could not be followed")

    def _ask_for_a_snapshot(self) -> None:
        """To subscribe again is to ask; one comes by itself within seconds in any case."""
        now = time.monotonic()
        if now - self._asked > ASK_AGAIN_SECONDS:
            self._asked = now
            self._socket.unsubscribe(b"")
            self._socket.subscribe(b"")
