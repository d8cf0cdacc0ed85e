"""Sends a replica's messages to all of its peers (the heads) over one ROUTER socket.

Each peer has its own outbox, and no peer waits for another: the messages for a peer that does not read stay in its
outbox, where they are merged. ZeroMQ does not report when a ROUTER can send to a peer again, so sending is retried as
long as messages wait.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zmq
import zmq.asyncio

from omni_worker.replica.wire.link import Link
from omni_worker.replica.wire.messages import FromReplica, Packed, pack_shared
from omni_worker.replica.wire.outbox import Outbox, replacement_for
from omni_worker.replica.wire.window import Window

log = logging.getLogger(__name__)
RETRY_SECONDS = 0.001
MAX_RETRY_SECONDS = 0.05


@dataclass
class Peer:
    """A head that is or was connected. `packed` is the message that it gets next, already encoded."""

    id: bytes
    link: Link
    outbox: Outbox = field(default_factory=Outbox)
    window: Window = field(default_factory=Window)
    packed: Packed | None = None

    @property
    def has_messages(self) -> bool:
        """Whether messages wait to be sent."""
        return self.packed is not None or len(self.outbox) > 0


class Outgoing:
    """Every peer, with the messages that wait for it. `on_disconnected` is called with each lost peer."""

    def __init__(self, socket: "zmq.asyncio.Socket", on_disconnected: Callable[[bytes], None]) -> None:
        self._socket = socket
        self._on_disconnected = on_disconnected
        self._peers: dict[bytes, Peer] = {}
        self._has_new = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def peer(self, id: bytes) -> Peer:
        """The peer with this ZeroMQ identity; creates it at its first message."""
        if (peer := self._peers.get(id)) is None:
            peer = self._peers[id] = Peer(id, Link(f"the head {id.hex()}"))
        return peer

    def put(self, id: bytes, message: FromReplica) -> None:
        """Send a message as soon as the peer accepts it."""
        self.peer(id).outbox.put(message)
        self._empty.clear()
        self._has_new.set()

    async def wait_empty(self) -> None:
        """Return as soon as all messages have been sent."""
        await self._empty.wait()

    def forget_idle(self, busy: set[bytes]) -> list[bytes]:
        """Forget peers without messages and pools, except the `busy` ones. Returns the peers that must hear `alive`."""
        for id, peer in list(self._peers.items()):
            if id not in busy and not peer.has_messages and not peer.link.has_pools:
                del self._peers[id]
        return list(busy | self._peers.keys())

    async def run(self) -> None:
        """Send until cancelled."""
        delay = RETRY_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._empty.is_set() else delay):
                    await self._has_new.wait()
            self._has_new.clear()
            sent = 0
            for peer in list(self._peers.values()):
                sent += await self._flush(peer)
            delay = RETRY_SECONDS if sent else min(2 * delay, MAX_RETRY_SECONDS)
            if not any(peer.has_messages for peer in self._peers.values()):
                self._empty.set()

    def close(self) -> None:
        """Release the memory that is shared with peers."""
        for peer in self._peers.values():
            peer.link.close()
        self._peers.clear()

    async def _flush(self, peer: Peer) -> int:
        """Send as many messages as the peer accepts now, and return their number."""
        sent = 0
        while peer.has_messages:
            if peer.packed is None and (packed := self._next(peer)) is not None:
                peer.packed = packed
            if peer.packed is not None:
                try:
                    if not await self._try_send(peer, peer.packed):
                        break
                except zmq.ZMQError as error:
                    if error.errno != zmq.EHOSTUNREACH:
                        raise
                    self._disconnect(peer)
                    break
                peer.packed = None
                sent += 1
        return sent

    def _next(self, peer: Peer) -> Packed | None:
        message = peer.outbox.pop()
        try:
            packed = pack_shared(message, peer.link)
        except Exception as error:  # a runner may return anything
            log.exception("an answer cannot be sent")
            failure = replacement_for(message, error)
            return None if failure is None else pack_shared(failure, None)
        if packed.is_large and (offer := peer.link.offer()) is not None:
            peer.outbox.put(offer)
        return packed

    async def _try_send(self, peer: Peer, packed: Packed) -> bool:
        frames: list[Any] = packed.frames
        if packed.is_large:
            if not peer.window.has_room:
                return False
            frames = peer.window.track(frames)
        try:
            await self._socket.send_multipart([peer.id, *frames], zmq.NOBLOCK, copy=False)
        except zmq.Again:
            if packed.is_large:
                peer.window.forget_last()
            return False
        return True

    def _disconnect(self, peer: Peer) -> None:
        self._peers.pop(peer.id, None)
        peer.link.close()
        self._on_disconnected(peer.id)
