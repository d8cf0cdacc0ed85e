"""A replica's data socket: passes requests from the heads to the engine, and the engine's events back.

The replica sends `alive` every second to each head that has requests here. A head that is no longer connected has given
up on the replica, so its requests are aborted. A head that is connected but does not read its answers gets no more of
them, and is ignored if it continues to ask.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import zmq
import zmq.asyncio

from omni_worker.addresses import tcp_address
from omni_worker.coordinator.loras import WantedLoras
from omni_worker.coordinator.messages import ReplicaLoad
from omni_worker.engine.engine import Engine
from omni_worker.engine.scheduler import Finished, RequestStatus, SchedulerEvent, SchedulerRequest
from omni_worker.errors import CommandError, RequestError
from omni_worker.replica.draining import Draining, OpenRequests, handed_back
from omni_worker.replica.events import EventBridge
from omni_worker.replica.self_check import SelfCheck
from omni_worker.replica.wire.link import Offer, PoolReply
from omni_worker.replica.wire.messages import (
    Abort,
    Add,
    Alive,
    Error,
    FromReplica,
    HandBack,
    Output,
    Partial,
    Progress,
    Rpc,
    RpcResult,
    unpack_to_replica,
)
from omni_worker.replica.wire.outgoing import Outgoing
from omni_worker.requests import GeneratedText, GenerationParams
from omni_worker.transport.keys import CurveKeys
from omni_worker.transport.sockets import QUEUED_DATA_MESSAGES, make_socket

if TYPE_CHECKING:
    from omni_worker.replica.request_spans import RequestSpans  # only needed for traces

log = logging.getLogger(__name__)
ALIVE_SECONDS = 1.0
UNREAD_ANSWERS = "what was asked for before is to be read first"
UNREAD_RETRY_SECONDS = 1.0
LOCAL_PRIORITY = 1_000  # of the replica's own requests, above all that clients may have


class ReplicaServer:
    """Serves one engine on one ROUTER socket. All methods run in the event loop, except `on_event`.

    default_steps: the model's own number of steps, for requests that name none
    self_check: gets the end of every request
    on_loras: called with the LoRA adapters that a head wants here
    """

    def __init__(self, capacity: int, keys: CurveKeys | None = None, spans: "RequestSpans | None" = None) -> None:
        self._spans = spans
        self.engine: Engine | None = None
        self.default_steps = 0
        self.completed = 0
        self.self_check = SelfCheck(self.run_locally)
        self.on_loras: Callable[[WantedLoras], None] = lambda wanted: None
        self._capacity = capacity
        self._loop = asyncio.get_running_loop()
        self._socket = make_socket(zmq.asyncio.Context.instance(), zmq.ROUTER, keys, queued=QUEUED_DATA_MESSAGES)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending to a peer that is not connected raises an error
        self._requests = OpenRequests()
        self._local: dict[str, asyncio.Future[Finished]] = {}
        self._outgoing = Outgoing(self._socket, self._on_disconnected)
        self._events = EventBridge(self._loop, self._deliver)
        self._draining = Draining(self._requests, self._outgoing, self._abort, self._close)
        self._ignored_peers: set[bytes] = set()

    def bind(self, host: str, port: int) -> None:
        """Listen. Raises CommandError if the port cannot be used."""
        try:
            self._socket.bind(tcp_address(host, port))
        except zmq.ZMQError as error:
            raise CommandError(
                f"the data port {port} on {host} cannot be used: {error.strerror or error}; "
                "choose another (--omni-replica-port)"
            ) from error

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._receive())
                group.create_task(self._outgoing.run())
                group.create_task(self._send_alive())
        finally:
            self._outgoing.close()

    async def run_locally(self, id: str, params: GenerationParams) -> Finished:
        """Run a request of this process itself, such as the warm-up, before all others, even if the queue is full."""
        self._local[id] = self._loop.create_future()
        assert self.engine is not None
        self.engine.add(SchedulerRequest(id, params, LOCAL_PRIORITY, refusable=False))
        return await self._local[id]

    def stop_accepting(self) -> None:
        """Refuse every new request from now on."""
        self._draining.has_begun = True

    async def drain(self, timeout: float) -> bool:
        """Accept nothing new, and wait until all requests have ended.

        Hands back what has not ended after `timeout` seconds, and returns False then.
        """
        return await self._draining.run(timeout)

    def uses_lora(self, name: str) -> bool:
        """Whether a request that was accepted, and has not ended, has selected the adapter."""
        return any(choice.name == name for id in self._requests for choice in self._requests[id].params.loras)

    @property
    def load(self) -> ReplicaLoad:
        """The load that the coordinator gets with every report."""
        if self.engine is None:
            return ReplicaLoad(capacity=self._capacity)
        load = self.engine.load
        mean = self.engine.step_seconds / self.engine.steps * 1e3 if self.engine.steps else 0.0
        return ReplicaLoad(
            queue_length=load.waiting,
            running=load.running,
            capacity=self._capacity,
            completed=self.completed,
            step_ms=round(mean, 2),
        )

    def on_event(self, event: SchedulerEvent) -> None:
        """The engine's callback, called in its thread."""
        self._events.put(event)

    # ---- from the heads

    async def _receive(self) -> None:
        while True:
            self._on_message(*await self._socket.recv_multipart(copy=False))

    def _on_message(self, peer: zmq.Frame, *frames: zmq.Frame) -> None:
        link = self._outgoing.peer(peer.bytes).link
        try:
            message = unpack_to_replica([frame.buffer for frame in frames], link)
        except (msgspec.MsgspecError, ValueError) as error:
            log.warning("dropped a malformed message: %s", error)
            return
        if isinstance(message, Abort):
            self._abort(message.id)
        elif isinstance(message, HandBack):
            self._hand_back_waiting()
        elif isinstance(message, WantedLoras):
            self.on_loras(message)
        elif isinstance(message, PoolReply):
            link.on_reply(message)
        else:
            self._on_question(peer.bytes, message)

    def _on_question(self, peer: bytes, message: Add | Rpc | Offer) -> None:
        """Handle a message that gets an answer, unless the head does not read its answers."""
        outbox = self._outgoing.peer(peer).outbox
        if outbox.is_overrun:
            if peer not in self._ignored_peers:
                log.warning("a head has not read its last %d answers, and is not listened to", len(outbox))
            self._ignored_peers.add(peer)
            return
        self._ignored_peers.discard(peer)
        if isinstance(message, Offer):
            self._put(peer, self._outgoing.peer(peer).link.on_offer(message))
        elif isinstance(message, Rpc):
            self._call(peer, message)
        elif outbox.is_full:
            self._put(peer, Error(message.id, "busy", UNREAD_ANSWERS, retry_after=UNREAD_RETRY_SECONDS))
        else:
            self._add(peer, message)

    def _add(self, peer: bytes, message: Add) -> None:
        if self._draining.has_begun or self.engine is None:
            self._put(peer, Error(message.id, "refused", "this replica takes nothing new"))
        elif message.id in self._requests:
            self._put(peer, Error(message.id, "invalid", f"a request with the id {message.id!r} runs already"))
        else:
            self._requests.add(message.id, peer, message.params)
            if self._spans is not None and message.trace is not None:
                self._spans.begin(message.id, message.trace)
            self.engine.add(self._scheduler_request(message))

    def _scheduler_request(self, message: Add) -> SchedulerRequest:
        params = message.params
        deadline = None if params.deadline_seconds is None else time.monotonic() + params.deadline_seconds
        steps = params.steps or self.default_steps
        return SchedulerRequest(message.id, params, params.priority, params.tenant, deadline, steps, message.refusable)

    def _call(self, peer: bytes, message: Rpc) -> None:
        if self.engine is None:
            self._put(peer, RpcResult(message.id, error="the engine is not running"))
            return
        future = asyncio.wrap_future(self.engine.collective_rpc(message.method, message.timeout, tuple(message.args)))

        def answer(done: "asyncio.Future[list[Any]]") -> None:
            error = done.exception()
            result = RpcResult(message.id, error=str(error)) if error else RpcResult(message.id, done.result())
            self._put(peer, result)

        future.add_done_callback(answer)

    def _abort(self, id: str) -> None:
        if self.engine is not None:
            self.engine.abort(id)

    def _hand_back_waiting(self) -> None:
        self._events.deliver_waiting()  # which requests have begun must be up to date
        if self.engine is not None:
            self._draining.hand_back_waiting()

    def _on_disconnected(self, peer: bytes) -> None:
        """Abort the requests of a head that is no longer connected."""
        self._ignored_peers.discard(peer)
        orphans = self._requests.of_peer(peer)
        if orphans:
            log.warning("the head that sent %d requests is gone; they are aborted", len(orphans))
        for id in orphans:
            self._abort(id)
            self._close(id, "the head that sent it is gone")

    # ---- to the heads

    def _deliver(self, event: SchedulerEvent) -> None:
        if isinstance(event, Finished):
            self._finish(event)
        elif request := self._requests.get(event.id):
            request.has_begun = True
            if isinstance(event.partial, GeneratedText):
                self._put(request.peer, Partial(event.id, written=event.partial))
            elif event.partial is not None:
                self._put(request.peer, Partial(event.id, preview=event.partial))
            if event.step > request.step:
                request.step = event.step
                self._put(request.peer, Progress(event.id, event.step, event.total_steps))

    def _finish(self, event: Finished) -> None:
        if (local := self._local.pop(event.id, None)) is not None:
            local.set_result(event)
            return
        request = self._requests.get(event.id)
        self.self_check.on_finished(event, None if request is None else request.params)
        if request is not None:
            if event.status is RequestStatus.COMPLETED:
                self.completed += 1
                self._put(request.peer, Output(event.id, event.result))
            elif event.status is RequestStatus.ABORTED and request.is_handed_back:
                self._put(request.peer, handed_back(event.id))
            else:
                self._put(request.peer, _error(event))
        self._close(
            event.id, None if event.status is RequestStatus.COMPLETED else str(event.error or event.status.name)
        )

    def _close(self, id: str, error: str | None) -> None:
        """Forget a request that was answered or aborted, and end its span."""
        if self._spans is not None:
            self._spans.end(id, error)
        self._requests.close(id)

    def _put(self, peer: bytes, message: FromReplica) -> None:
        self._outgoing.put(peer, message)

    async def _send_alive(self) -> None:
        while True:
            await asyncio.sleep(ALIVE_SECONDS)
            for peer in self._outgoing.forget_idle(self._requests.peers):
                self._put(peer, Alive())


def _error(event: Finished) -> Error:
    if event.status is RequestStatus.ABORTED:
        return Error(event.id, "aborted", "the request was aborted")
    if isinstance(event.error, RequestError):
        error = event.error
        return Error(event.id, error.kind, error.message, error.param, error.retry_after, error.code)
    log.error("request %s failed", event.id, exc_info=event.error)
    return Error(event.id, "failed", f"{type(event.error).__name__}: {event.error}")
