"""Sends what a replica tells its peers, over the one ROUTER that all of them are connected to.

Each has an outbox of its own. Nothing here waits for a peer: one that does not read keeps its messages in its outbox,
where they are merged, and the others get theirs. ZeroMQ does not say when a connection of a ROUTER can be written to
again, so that is tried again and again while something waits.
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
from omni_worker.replica.wire.outbox import Outbox, failure_of
from omni_worker.replica.wire.window import Window

log = logging.getLogger(__name__)
RETRY_SECONDS = 0.001
LONGEST_RETRY_SECONDS = 0.05


@dataclass
class Peer:
    """One that is or was connected. `packed` is what it is to get next."""

    id: bytes
    link: Link
    outbox: Outbox = field(default_factory=Outbox)
    window: Window = field(default_factory=Window)
    packed: Packed | None = None

    @property
    def is_waited_for(self) -> bool:
        """Whether there is something to send."""
        return self.packed is not None or len(self.outbox) > 0


class Outgoing:
    """All of them. `on_gone` is told of a peer that is no longer connected."""

    def __init__(self, socket: "zmq.asyncio.Socket", on_gone: Callable[[bytes], None]) -> None:
        self._socket = socket
        self._on_gone = on_gone
        self._peers: dict[bytes, Peer] = {}
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def peer(self, id: bytes) -> Peer:
        """What is known of a peer."""
        if (peer := self._peers.get(id)) is None:
            peer = self._peers[id] = Peer(id, Link(f"the head {id.hex()}"))
        return peer

    def put(self, id: bytes, message: FromReplica) -> None:
        """Send, as soon as the peer takes it."""
        self.peer(id).outbox.put(message)
        self._empty.clear()
        self._filled.set()

    async def wait_empty(self) -> None:
        """Until all of it has been sent."""
        await self._empty.wait()

    def forget_idle(self, busy: set[bytes]) -> list[bytes]:
        """Forget peers that nothing is held of, unless they are `busy`; the others, which are to be told of life."""
        for id, peer in list(self._peers.items()):
            if id not in busy and not peer.is_waited_for and not peer.link.has_pools:
                del self._peers[id]
        return list(busy | self._peers.keys())

    async def run(self) -> None:
        """Send for ever; cancel to end."""
        delay = RETRY_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._empty.is_set() else delay):
                    await self._filled.wait()
            self._filled.clear()
            sent = 0
            for peer in list(self._peers.values()):
                sent += await self._flush(peer)
            delay = RETRY_SECONDS if sent else min(2 * delay, LONGEST_RETRY_SECONDS)
            if not any(peer.is_waited_for for peer in self._peers.values()):
                self._empty.set()

    def close(self) -> None:
        """Let go of what is shared with peers."""
        for peer in self._peers.values():
            peer.link.close()
        self._peers.clear()

    async def _flush(self, peer: Peer) -> int:
        """Send what the peer takes now; how many messages that was."""
        sent = 0
        while peer.is_waited_for:
            if peer.packed is None and (packed := self._next(peer)) is not None:
                peer.packed = packed
            if peer.packed is not None:
                try:
                    if not await self._send(peer, peer.packed):
                        break
                except zmq.ZMQError as error:
                    if error.errno != zmq.EHOSTUNREACH:
                        raise
                    self._gone(peer)
                    break
                peer.packed = None
                sent += 1
        return sent

    def _next(self, peer: Peer) -> Packed | None:
        message = peer.outbox.pop()
        try:
            packed = pack_shared(message, peer.link)
        except Exception as error:  # whatever a runner gave
            log.exception("an answer cannot be sent")
            failure = failure_of(message, error)
            return None if failure is None else pack_shared(failure, None)
        if packed.is_large and (offer := peer.link.offer()) is not None:
            peer.outbox.put(offer)
        return packed

    async def _send(self, peer: Peer, packed: Packed) -> bool:
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

    def _gone(self, peer: Peer) -> None:
        self._peers.pop(peer.id, None)
        peer.link.close()
        self._on_gone(peer.id)
