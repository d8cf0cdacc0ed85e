"""The head's connection to one replica: sends requests, returns their results, and notices at once if it is lost.

If the replica accepts messages slowly, each request waits for its own message as long as the connection is open.
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

from omni_worker.coordinator.loras import WantedLoras
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
    ended_request,
    pack_shared,
    unpack_from_replica,
)
from omni_worker.replica.wire.window import Window
from omni_worker.requests import GenerationParams, GenerationResult
from omni_worker.transport.keys import CurveKeys
from omni_worker.transport.sockets import (
    DATA_SILENCE_MS,
    MAX_MESSAGE_BYTES,
    MAX_RESULT_BYTES,
    QUEUED_DATA_MESSAGES,
    make_socket,
)

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.005
QUEUED_REQUESTS = 1_000  # while the connection is being established
SILENCE_SECONDS = 3.0  # a connection that closes after a longer silence timed out; the replica did not crash

OnUpdate = Callable[[Progress | Partial], None]


class ReplicaClient:
    """One DEALER socket to one replica.

    `on_connection` is called with True when the connection is established and with False when it closes. With
    `shares_memory=False` all arrays travel in messages.
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
        self._last_message_at = float("-inf")
        self._socket = make_socket(
            zmq.asyncio.Context.instance(),
            zmq.DEALER,
            keys,
            max_bytes=MAX_RESULT_BYTES,
            queued=QUEUED_DATA_MESSAGES,
            silence_ms=DATA_SILENCE_MS,
        )
        self._socket.setsockopt(zmq.SNDHWM, QUEUED_REQUESTS)
        self._shares_memory = shares_memory
        self._link = Link(address, shares_memory)
        self._window = Window()
        self._is_open = False
        self._losses = 0
        self._replies: set[asyncio.Task[None]] = set()
        self._results: dict[str, asyncio.Future[GenerationResult]] = {}
        self._listeners: dict[str, OnUpdate] = {}
        self._rpcs: dict[str, asyncio.Future[list[Any]]] = {}
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._socket.connect(address)
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._watch())]

    @property
    def in_flight(self) -> int:
        """The number of requests that were sent and not answered yet."""
        return len(self._results)

    async def generate(
        self,
        id: str,
        params: GenerationParams,
        on_update: OnUpdate,
        refusable: bool = True,
        trace: Trace | None = None,
    ) -> GenerationResult:
        """Run one request and return its result. `id` must be new to this replica. Cancelling it aborts the request.

        A request that is not `refusable` is accepted even if the replica's queue is full.

        Raises RequestError if the replica answers with an error or the request is too large to be sent, and ReplicaLost
        if the replica is lost before.
        """
        _check_size(params)
        if not self._results:
            self._last_message_at = time.monotonic()
        future = self._results[id] = asyncio.get_running_loop().create_future()
        self._listeners[id] = on_update
        try:
            await self._send(Add(id, params, refusable, trace))
            result: GenerationResult = await future
            return result
        except (asyncio.CancelledError, ReplicaLost):
            if not self._socket.closed:  # a replica that only seemed lost must not continue to run it
                with contextlib.suppress(ReplicaLost):
                    await self._send(Abort(id))
            raise
        finally:
            self._results.pop(id, None)
            self._listeners.pop(id, None)
            if future.done() and not future.cancelled():
                future.exception()  # marks it as retrieved: the caller already has it

    async def rpc(self, id: str, method: str, *args: Any, timeout: float = 10.0) -> list[Any]:
        """Call a method of the replica's runners and return their results in rank order.

        Raises RequestError, ReplicaLost or TimeoutError (after `timeout` seconds).
        """
        future = self._rpcs[id] = asyncio.get_running_loop().create_future()
        try:
            await self._send(Rpc(id, method, list(args), timeout))
            return await asyncio.wait_for(future, timeout)
        finally:
            self._rpcs.pop(id, None)

    async def hand_back(self) -> None:
        """Ask a draining replica to refuse the requests that have not begun there."""
        with contextlib.suppress(ReplicaLost):
            await self._send(HandBack())

    async def want_loras(self, wanted: WantedLoras) -> None:
        """Name the LoRA adapters that the replica must hold. It reports what it holds when it registers again."""
        with contextlib.suppress(ReplicaLost):
            await self._send(wanted)

    def lose(self, message: str, reason: str = "left") -> None:
        """Give up the requests on the replica: each of them raises ReplicaLost."""
        self._losses += 1
        waiting: list[asyncio.Future[Any]] = [*self._results.values(), *self._rpcs.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(ReplicaLost(message, reason))

    async def close(self) -> None:
        """Disconnect. Requests in flight raise ReplicaLost."""
        self.lose("the connection was closed")
        tasks = [*self._tasks, *self._replies]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._link.close()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    async def _send(self, message: ToReplica) -> None:
        """Send as soon as the connection accepts the message.

        Raises ReplicaLost if the connection closes before that, or was never established and its queue is full.
        """
        link, losses = self._link, self._losses
        packed = pack_shared(message, link)
        try:
            while not await self._try_send(packed):
                if not self._is_open or losses != self._losses:
                    raise ReplicaLost(f"{self._address} takes no messages")
                await asyncio.sleep(RETRY_SECONDS)
        except BaseException:
            for place in packed.places:
                link.discard(place)
            raise
        if packed.is_large and link is self._link and (offer := link.offer()) is not None:
            await self._send(offer)

    async def _try_send(self, packed: Packed) -> bool:
        """Returns whether the connection accepted the message."""
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
                silence = time.monotonic() - self._last_message_at
                reason = "crashed" if silence < SILENCE_SECONDS else "stalled"
                self.lose(f"the connection to {self._address} closed, {silence:.1f} s after its last word", reason)

    async def _receive(self) -> None:
        while True:
            self._on_frames(await self._socket.recv_multipart(copy=False))

    def _on_frames(self, frames: list[zmq.Frame]) -> None:
        self._last_message_at = time.monotonic()
        buffers = [frame.buffer for frame in frames]
        try:
            self._on_message(unpack_from_replica(buffers, self._link))
        except (msgspec.MsgspecError, ValueError) as error:
            log.warning("dropped a malformed message from %s: %s", self._address, error)
            future = self._results.get(ended_request(buffers) or "")
            if future is not None and not future.done():  # nothing else will answer the request
                future.set_exception(RequestError("failed", f"the replica's answer cannot be read: {error}"))

    def _on_message(self, message: FromReplica) -> None:
        if isinstance(message, Progress | Partial):
            if (on_update := self._listeners.get(message.id)) is not None:
                on_update(message)
        elif isinstance(message, RpcResult):
            if (call := self._rpcs.get(message.id)) is not None and not call.done():
                if message.error is None:
                    call.set_result(message.answers)
                else:
                    call.set_exception(RequestError("failed", message.error))
        elif isinstance(message, Alive):
            pass
        elif isinstance(message, PoolReply):
            self._link.on_reply(message)
        elif isinstance(message, Offer):
            self._reply(message)
        elif (future := self._results.get(message.id)) is not None and not future.done():
            if isinstance(message, Output):
                future.set_result(message.result)
            else:
                error = message
                future.set_exception(
                    RequestError(error.kind, error.message, error.param, error.retry_after, error.code)
                )

    def _reply(self, offer: Offer) -> None:
        """Reply to an offer in the background, so that later messages need not wait."""

        async def send(reply: PoolReply) -> None:
            with contextlib.suppress(ReplicaLost):
                await self._send(reply)

        task = asyncio.create_task(send(self._link.on_offer(offer)))
        self._replies.add(task)
        task.add_done_callback(self._replies.discard)


def _check_size(params: GenerationParams) -> None:
    """Raises RequestError if a request is so large that the replica would close the connection."""
    arrays = [*params.embeddings.values(), *params.images, *([] if params.mask is None else [params.mask])]
    size = sum(array.nbytes for array in arrays)
    if size >= MAX_MESSAGE_BYTES:
        raise RequestError(
            "invalid",
            f"the inputs of this stage have {size / 2**30:.1f} GiB, more than the {MAX_MESSAGE_BYTES / 2**30:g} GiB "
            "that can be sent to a replica: send a shorter prompt, or fewer or smaller images",
        )
