"""A subscriber of the coordinator: keeps a view of all replicas, and reports every change to its owner.

If the coordinator falls silent, the last view stays, and routing continues with it.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import zmq
import zmq.asyncio
from msgspec.structs import replace

from omni_worker.coordinator.messages import MALFORMED, Delta, Replica, ReplicaState, Snapshot, decode_publication
from omni_worker.transport.keys import CurveKeys
from omni_worker.transport.sockets import make_socket

log = logging.getLogger(__name__)
SNAPSHOT_RETRY_SECONDS = 1.0


class MembershipView:
    """All replicas, as published. Pure. A replica that left is returned once, as DOWN."""

    def __init__(self) -> None:
        self.replicas: dict[tuple[int, int], Replica] = {}
        self._incarnation = ""
        self._sequence = -1

    def apply(self, publication: Delta | Snapshot) -> list[Replica] | None:
        """Apply a publication. Returns the replicas that changed, or None if a publication was missed.

        After None, only a snapshot makes the view complete again.
        """
        if isinstance(publication, Snapshot):
            return self._replace(publication)
        if publication.incarnation != self._incarnation or publication.sequence > self._sequence + 1:
            return None
        if publication.sequence <= self._sequence:
            return []
        self._sequence = publication.sequence
        changed = publication.changed.replicas
        for replica in changed:
            if replica.state is ReplicaState.DOWN:
                self.replicas.pop(replica.key, None)
            else:
                self.replicas[replica.key] = replica
        for new in publication.loads:
            current = self.replicas.get((new.stage_id, new.replica_id))
            if current is not None and current.load != new.load:
                loaded = self.replicas[current.key] = replace(current, load=new.load)
                changed.append(loaded)
        return changed

    def _replace(self, snapshot: Snapshot) -> list[Replica]:
        if snapshot.incarnation == self._incarnation and snapshot.sequence < self._sequence:
            return []
        before, self.replicas = self.replicas, {replica.key: replica for replica in snapshot.all.replicas}
        self._incarnation, self._sequence = snapshot.incarnation, snapshot.sequence
        left = [
            replace(replica, state=ReplicaState.DOWN)
            for key, replica in before.items()
            if key not in self.replicas or self.replicas[key].uid != replica.uid
        ]
        return left + [replica for key, replica in self.replicas.items() if before.get(key) != replica]


class Hub:
    """Follows the coordinator at `address`, and calls `on_change` in the event loop with the replicas that changed.

    last_publication_at: when the coordinator last published anything, on the monotonic clock
    malformed: how many publications could not be decoded
    """

    def __init__(self, address: str, on_change: Callable[[list[Replica]], None], keys: CurveKeys | None = None) -> None:
        self.malformed = 0
        self.last_publication_at = time.monotonic()
        self._address = address
        self._on_change = on_change
        self._view = MembershipView()
        self._requested_at = float("-inf")
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
            self.last_publication_at = time.monotonic()
            try:
                (frame,) = frames
                changed = self._view.apply(decode_publication(frame))
            except MALFORMED:
                self.malformed += 1
                continue
            if changed is None:
                self._request_snapshot()
            elif changed:
                try:
                    self._on_change(changed)
                except Exception:  # the owner must still get the next change
                    log.exception("a change of the membership could not be followed")

    def _request_snapshot(self) -> None:
        """Subscribe again, which asks for a snapshot. Without it, one is published within seconds anyway."""
        now = time.monotonic()
        if now - self._requested_at > SNAPSHOT_RETRY_SECONDS:
            self._requested_at = now
            self._socket.unsubscribe(b"")
            self._socket.subscribe(b"")
