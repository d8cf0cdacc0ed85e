"""A subscriber of the coordinator: keeps a view of all replicas, and tells its owner what changed.

When the coordinator falls silent the last view stays: routing goes on with it.
"""

import asyncio
from collections.abc import Callable

import msgspec
import zmq
import zmq.asyncio

from omni_worker.coordinator.messages import Delta, Replica, Snapshot, State, decode_publication
from omni_worker.sockets import make_socket


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
        replica = publication.replica
        if replica.state is State.DOWN:
            self.replicas.pop(replica.key, None)
        else:
            self.replicas[replica.key] = replica
        return [replica]

    def _replace(self, snapshot: Snapshot) -> list[Replica]:
        if snapshot.incarnation == self._incarnation and snapshot.sequence < self._sequence:
            return []
        before, self.replicas = self.replicas, {replica.key: replica for replica in snapshot.replicas}
        self._incarnation, self._sequence = snapshot.incarnation, snapshot.sequence
        gone = [
            msgspec.structs.replace(replica, state=State.DOWN)
            for key, replica in before.items()
            if key not in self.replicas or self.replicas[key].uid != replica.uid
        ]
        return gone + [replica for key, replica in self.replicas.items() if before.get(key) != replica]


class Hub:
    """Follows the coordinator at `address`; `on_change` is called in the event loop with the replicas that changed."""

    def __init__(self, address: str, on_change: Callable[[list[Replica]], None]) -> None:
        self._address = address
        self._on_change = on_change
        self._view = View()
        self._socket = make_socket(zmq.asyncio.Context.instance(), zmq.SUB)
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
            try:
                publication = decode_publication(await self._socket.recv())
            except msgspec.MsgspecError:
                continue
            changed = self._view.apply(publication)
            if changed is None:  # ask for a snapshot; one comes by itself within seconds in any case
                self._socket.unsubscribe(b"")
                self._socket.subscribe(b"")
            elif changed:
                self._on_change(changed)
