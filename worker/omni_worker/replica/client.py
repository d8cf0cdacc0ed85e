"""The head's end of one replica: sends it requests, and knows at once when it is gone.

A replica that takes messages slowly is waited for, as long as it is connected; each request waits for itself.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from omni_worker.errors import ReplicaLost, RequestError
from omni_worker.replica.wire.link import Link, Offer, PoolReply
from omni_worker.replica.wire.messages import (
    Abort,
    Add,
    Alive,
    FromReplica,
    HandBack,
    Output,
    Packed,
    Partial,
    Progress,
    Rpc,
    RpcResult,
    ToReplica,
    Trace,
    pack_shared,
    unpack_from_replica,
)
from omni_worker.replica.wire.window import Window
from omni_worker.requests import GenerationParams, GenerationResult
from omni_worker.transport.keys import CurveKeys
from omni_worker.transport.sockets import QUEUED_DATA_MESSAGES, make_socket

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.005
QUEUED_REQUESTS = 1_000  # until a connection stands
SILENCE_SECONDS = 3.0  # after which a connection that closes did so for want of an answer, and not for a crash

OnNews = Callable[[Progress | Partial], None]


class ReplicaClient:
    """One DEALER to one replica. `on_connection` is told when the connection stands, and when it closes.

    Without `shares_memory` all arrays travel in messages.
    """

    def __init__(
        self,
        address: str,
        on_connection: Callable[[bool], None],
        keys: CurveKeys | None = None,
        shares_memory: bool = True,
    ) -> None:
        self._address = address
        self._on_connection = on_connection
        self._heard = float("-inf")
        self._socket = make_socket(zmq.asyncio.Context.instance(), zmq.DEALER, keys, queued=QUEUED_DATA_MESSAGES)
        self._socket.setsockopt(zmq.SNDHWM, QUEUED_REQUESTS)
        self._shares_memory = shares_memory
        self._link = Link(address, shares_memory)
        self._window = Window()
        self._is_open = False
        self._losses = 0
        self._answering: set[asyncio.Task[None]] = set()
        self._results: dict[str, asyncio.Future[GenerationResult]] = {}
        self._news: dict[str, OnNews] = {}
        self._rpcs: dict[str, asyncio.Future[list[Any]]] = {}
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._socket.connect(address)
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._watch())]

    @property
    def in_flight(self) -> int:
        """Requests that were sent and not yet answered."""
        return len(self._results)

    async def generate(
        self,
        id: str,
        params: GenerationParams,
        on_news: OnNews,
        refusable: bool = True,
        trace: Trace | None = None,
    ) -> GenerationResult:
        """Run one request; `id` is new to this replica. Cancelled, it aborts the request there.

        One that is not `refusable` is taken though the queue be full.

        Raises RequestError (the replica's answer) or ReplicaLost.
        """
        if not self._results:
            self._heard = time.monotonic()
        future = self._results[id] = asyncio.get_running_loop().create_future()
        self._news[id] = on_news
        try:
            await self._send(Add(id, params, refusable, trace))
            result: GenerationResult = await future
            return result
        except (asyncio.CancelledError, ReplicaLost):
            if not self._socket.closed:  # a replica that only seemed lost must not go on with it
                with contextlib.suppress(ReplicaLost):
                    await self._send(Abort(id))
            raise
        finally:
            self._results.pop(id, None)
            self._news.pop(id, None)
            if future.done() and not future.cancelled():
                future.exception()  # which is known by now

    async def rpc(self, id: str, method: str, *args: Any, timeout: float = 10.0) -> list[Any]:
        """Call a method of the replica's runners. Raises RequestError, ReplicaLost or TimeoutError."""
        future = self._rpcs[id] = asyncio.get_running_loop().create_future()
        try:
            await self._send(Rpc(id, method, list(args), timeout))
            return await asyncio.wait_for(future, timeout)
        finally:
            self._rpcs.pop(id, None)

    async def hand_back(self) -> None:
        """Have a replica that drains refuse what only waits there."""
        with contextlib.suppress(ReplicaLost):
            await self._send(HandBack())

    def lose(self, message: str, reason: str = "left") -> None:
        """Give up what runs there: every request in flight ends with ReplicaLost."""
        self._losses += 1
        waiting: list[asyncio.Future[Any]] = [*self._results.values(), *self._rpcs.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(ReplicaLost(message, reason))

    async def close(self) -> None:
        """Disconnect; what is in flight is lost."""
        self.lose("the connection was closed")
        tasks = [*self._tasks, *self._answering]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._link.close()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    async def _send(self, message: ToReplica) -> None:
        """Send as soon as the connection takes it. Raises ReplicaLost where it closes before, or never stood: a
        connection that cannot take a message then, for its peer is none of ours, never will."""
        link, losses = self._link, self._losses
        packed = pack_shared(message, link)
        try:
            while not await self._sent(packed):
                if not self._is_open or losses != self._losses:
                    raise ReplicaLost(f"{self._address} takes no messages")
                await asyncio.sleep(RETRY_SECONDS)
        except BaseException:
            for place in packed.places:
                link.discard(place)
            raise
        if packed.is_large and link is self._link and (offer := link.offer()) is not None:
            await self._send(offer)

    async def _sent(self, packed: Packed) -> bool:
        """Whether the connection took it."""
        if packed.is_large and not self._window.has_room and self._is_open:
            return False
        frames = self._window.track(packed.frames) if packed.is_large else packed.frames
        try:
            await self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            if packed.is_large:
                self._window.forget_last()
            return False
        return True

    async def _watch(self) -> None:
        while True:
            event = parse_monitor_message(await self._monitor.recv_multipart())
            is_open = self._is_open = event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._on_connection(is_open)
            if not is_open:
                self._link.close()
                self._link = Link(self._address, self._shares_memory)
                silence = time.monotonic() - self._heard
                reason = "crashed" if silence < SILENCE_SECONDS else "stalled"
                self.lose(f"the connection to {self._address} closed, {silence:.1f} s after its last word", reason)

    async def _receive(self) -> None:
        while True:
            self._take(await self._socket.recv_multipart(copy=False))

    def _take(self, frames: list[zmq.Frame]) -> None:
        self._heard = time.monotonic()
        try:
            self._handle(unpack_from_replica([frame.buffer for frame in frames], self._link))
        except (msgspec.MsgspecError, ValueError) as error:
            log.warning("dropped a malformed message from %s: %s", self._address, error)

    def _handle(self, message: FromReplica) -> None:
        if isinstance(message, Progress | Partial):
            if (on_news := self._news.get(message.id)) is not None:
                on_news(message)
        elif isinstance(message, RpcResult):
            if (call := self._rpcs.get(message.id)) is not None and not call.done():
                if message.error is None:
                    call.set_result(message.answers)
                else:
                    call.set_exception(RequestError("failed", message.error))
        elif isinstance(message, Alive):
            pass
        elif isinstance(message, PoolReply):
            self._link.on_answer(message)
        elif isinstance(message, Offer):
            self._answer(message)
        elif (future := self._results.get(message.id)) is not None and not future.done():
            if isinstance(message, Output):
                future.set_result(message.result)
            else:
                future.set_exception(RequestError(message.kind, message.message, message.param, message.retry_after))

    def _answer(self, offer: Offer) -> None:
        """Answer, without keeping what came after the offer waiting."""

        async def send(answer: PoolReply) -> None:
            with contextlib.suppress(ReplicaLost):
                await self._send(answer)

        task = asyncio.create_task(send(self._link.on_offer(offer)))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
