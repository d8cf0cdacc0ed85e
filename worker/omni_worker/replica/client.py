"""The head's end of one replica: sends it requests, and knows at once when it is gone."""

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
from omni_worker.keys import Keys
from omni_worker.replica.messages import (
    Abort,
    Add,
    Alive,
    FromReplica,
    HandBack,
    Output,
    Partial,
    Progress,
    Rpc,
    RpcResult,
    ToReplica,
    pack,
    unpack_from_replica,
)
from omni_worker.requests import GenerationParams, GenerationResult
from omni_worker.sockets import make_socket

log = logging.getLogger(__name__)

SILENCE_SECONDS = 3.0  # after which a connection that closes did so for want of an answer, and not for a crash

OnNews = Callable[[Progress | Partial], None]


class ReplicaClient:
    """One DEALER to one replica. `on_connection` is told when the connection stands, and when it closes."""

    def __init__(self, address: str, on_connection: Callable[[bool], None], keys: Keys | None = None) -> None:
        self._address = address
        self._on_connection = on_connection
        self._heard = float("-inf")
        self._socket = make_socket(zmq.asyncio.Context.instance(), zmq.DEALER, keys)
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
        self, id: str, params: GenerationParams, on_news: OnNews, refusable: bool = True
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
            await self._send(Add(id, params, refusable))
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
        await self._socket.send_multipart(pack(HandBack()))

    def lose(self, message: str, reason: str = "left") -> None:
        """Give up what runs there: every request in flight ends with ReplicaLost."""
        waiting: list[asyncio.Future[Any]] = [*self._results.values(), *self._rpcs.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(ReplicaLost(message, reason))

    async def close(self) -> None:
        """Disconnect; what is in flight is lost."""
        self.lose("the connection was closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    async def _send(self, message: ToReplica) -> None:
        """Send without waiting: a connection that cannot take a message, for its peer is none of ours, never will."""
        try:
            await self._socket.send_multipart(pack(message), zmq.NOBLOCK, copy=False)
        except zmq.Again:
            raise ReplicaLost(f"{self._address} takes no messages") from None

    async def _watch(self) -> None:
        while True:
            event = parse_monitor_message(await self._monitor.recv_multipart())
            is_open = event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._on_connection(is_open)
            if not is_open:
                silence = time.monotonic() - self._heard
                reason = "crashed" if silence < SILENCE_SECONDS else "stalled"
                self.lose(f"the connection to {self._address} closed, {silence:.1f} s after its last word", reason)

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart(copy=False)
            self._heard = time.monotonic()
            try:
                self._handle(unpack_from_replica([frame.buffer for frame in frames]))
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
        elif (future := self._results.get(message.id)) is not None and not future.done():
            if isinstance(message, Output):
                future.set_result(message.result)
            else:
                future.set_exception(RequestError(message.kind, message.message, message.param, message.retry_after))
