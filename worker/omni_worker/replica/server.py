"""A replica's data socket: hands requests to the engine, and its events back to whoever asked.

It tells everybody who has requests here, every second, that it lives. Whoever is not there to be told has gone, and
given up on the replica: then the requests are ended, so that none runs for nobody. Whoever is there but does not read
what it asked for is refused more of it.
"""

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec
import zmq
import zmq.asyncio

from omni_worker.coordinator.messages import ReplicaLoad
from omni_worker.engine.engine import Engine
from omni_worker.engine.scheduler import Finished, RequestStatus, SchedulerEvent, SchedulerRequest
from omni_worker.errors import CommandError, RequestError
from omni_worker.replica.events import Events
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
    from omni_worker.replica.phases import Phases  # which needs torch, and is not always wanted

log = logging.getLogger(__name__)
ALIVE_SECONDS = 1.0
LAST_FRAMES_SECONDS = 0.1  # for the last frames to leave the socket
NOT_READ = "what was asked for before is to be read first"
NOT_READ_RETRY_SECONDS = 1.0
HANDED_BACK = "this replica is going away; the request is handed back"


class ReplicaServer:
    """Serves one engine on one ROUTER socket. All methods run in the event loop, except `on_event`."""

    def __init__(self, capacity: int, keys: CurveKeys | None = None, phases: "Phases | None" = None) -> None:
        self._phases = phases
        self.engine: Engine | None = None
        self.default_steps = 0
        self.completed = 0
        self.is_draining = False
        self._capacity = capacity
        self._loop = asyncio.get_running_loop()
        self._socket = make_socket(zmq.asyncio.Context.instance(), zmq.ROUTER, keys, queued=QUEUED_DATA_MESSAGES)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # to send to one who is gone is an error
        self._askers: dict[str, bytes] = {}
        self._begun: set[str] = set()
        self._handed_back: set[str] = set()
        self._steps: dict[str, int] = {}
        self._internal: dict[str, asyncio.Future[Finished]] = {}
        self._outgoing = Outgoing(self._socket, self._lost)
        self._events = Events(self._loop, self._deliver)
        self._deaf: set[bytes] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def bind(self, host: str, port: int) -> None:
        """Listen. Raises CommandError where the port cannot be used."""
        try:
            self._socket.bind(f"tcp://{host}:{port}")
        except zmq.ZMQError as error:
            raise CommandError(
                f"the data port {port} on {host} cannot be used: {error.strerror or error}; "
                "choose another (--omni-replica-port)"
            ) from error

    async def run(self) -> None:
        """Serve for ever; cancel to end."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._receive())
                group.create_task(self._outgoing.run())
                group.create_task(self._tell_of_life())
        finally:
            self._outgoing.close()

    async def run_here(self, id: str, params: GenerationParams) -> Finished:
        """Run a request of this process's own (the warm-up) through the engine."""
        self._internal[id] = self._loop.create_future()
        assert self.engine is not None
        self.engine.add(SchedulerRequest(id, params, refusable=False))
        return await self._internal[id]

    async def drain(self, timeout: float) -> bool:
        """Take nothing new, and wait until all that was taken has ended.

        What has not ended after `timeout` seconds is handed back, to be run elsewhere; False then.
        """
        self.is_draining = True
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            left = list(self._askers)
            for id in left:
                self._refuse(id)
        else:
            left = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ALIVE_SECONDS):
                await self._outgoing.wait_empty()
        await asyncio.sleep(LAST_FRAMES_SECONDS)
        return not left

    @property
    def load(self) -> ReplicaLoad:
        """What the coordinator is told."""
        if self.engine is None:
            return ReplicaLoad(capacity=self._capacity)
        held = self.engine.load
        mean = self.engine.step_seconds / self.engine.steps * 1e3 if self.engine.steps else 0.0
        return ReplicaLoad(
            queue_length=held.waiting,
            running=held.running,
            capacity=self._capacity,
            completed=self.completed,
            step_ms=round(mean, 2),
        )

    def on_event(self, event: SchedulerEvent) -> None:
        """The engine's callback, called in its thread."""
        self._events.put(event)

    async def _receive(self) -> None:
        while True:
            self._take(*await self._socket.recv_multipart(copy=False))

    def _take(self, peer: zmq.Frame, *frames: zmq.Frame) -> None:
        link = self._outgoing.peer(peer.bytes).link
        try:
            message = unpack_to_replica([frame.buffer for frame in frames], link)
        except (msgspec.MsgspecError, ValueError) as error:
            log.warning("dropped a malformed message: %s", error)
            return
        if isinstance(message, Abort):
            if self.engine is not None:
                self.engine.abort(message.id)
        elif isinstance(message, HandBack):
            self._hand_back_waiting()
        elif isinstance(message, PoolReply):
            link.on_answer(message)
        else:
            self._ask(peer.bytes, message)

    def _ask(self, peer: bytes, message: Add | Rpc | Offer) -> None:
        """What is to be answered."""
        outbox = self._outgoing.peer(peer).outbox
        if outbox.is_overrun:
            if peer not in self._deaf:
                log.warning("a head has not read its last %d answers, and is not listened to", len(outbox))
            self._deaf.add(peer)
            return
        self._deaf.discard(peer)
        if isinstance(message, Offer):
            self._put(peer, self._outgoing.peer(peer).link.on_offer(message))
        elif isinstance(message, Rpc):
            self._call(peer, message)
        elif outbox.is_full:
            self._put(peer, Error(message.id, "busy", NOT_READ, retry_after=NOT_READ_RETRY_SECONDS))
        else:
            self._add(peer, message)

    def _add(self, peer: bytes, message: Add) -> None:
        if self.is_draining or self.engine is None:
            self._put(peer, Error(message.id, "refused", "this replica takes nothing new"))
        elif message.id in self._askers:
            self._put(peer, Error(message.id, "invalid", f"a request with the id {message.id!r} runs already"))
        else:
            self._askers[message.id] = peer
            self._idle.clear()
            if self._phases is not None and message.trace is not None:
                self._phases.begin(message.id, message.trace)
            self.engine.add(self._scheduled(message))

    def _hand_back_waiting(self) -> None:
        """Give up what has not begun; the engine says between two steps what that is."""
        self._events.take()
        if self.is_draining and self.engine is not None:
            for id in [id for id in self._askers if id not in self._begun | self._handed_back]:
                self._handed_back.add(id)
                self.engine.abort(id)

    def _refuse(self, id: str) -> None:
        """Hand one back that runs, without waiting for its step to end."""
        self._put(self._askers.pop(id), Error(id, "refused", HANDED_BACK))
        if self.engine is not None:
            self.engine.abort(id)
        self._forget(id, HANDED_BACK)

    def _forget(self, id: str, error: str | None = None) -> None:
        if self._phases is not None:
            self._phases.end(id, error)
        self._askers.pop(id, None)
        self._steps.pop(id, None)
        self._begun.discard(id)
        self._handed_back.discard(id)
        if not self._askers:
            self._idle.set()

    def _scheduled(self, message: Add) -> SchedulerRequest:
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

    def _deliver(self, event: SchedulerEvent) -> None:
        if isinstance(event, Finished):
            self._finish(event)
        elif peer := self._askers.get(event.id):
            self._begun.add(event.id)
            if isinstance(event.partial, GeneratedText):
                self._put(peer, Partial(event.id, written=event.partial))
            elif event.partial is not None:
                self._put(peer, Partial(event.id, preview=event.partial))
            if event.step > self._steps.get(event.id, 0):
                self._steps[event.id] = event.step
                self._put(peer, Progress(event.id, event.step, event.total_steps))

    def _finish(self, event: Finished) -> None:
        if (waiter := self._internal.pop(event.id, None)) is not None:
            waiter.set_result(event)
            return
        peer = self._askers.get(event.id)
        if peer is not None:
            if event.status is RequestStatus.COMPLETED:
                self.completed += 1
                self._put(peer, Output(event.id, event.result))
            elif event.status is RequestStatus.ABORTED and event.id in self._handed_back:
                self._put(peer, Error(event.id, "refused", HANDED_BACK))
            else:
                self._put(peer, _error(event))
        self._forget(
            event.id, None if event.status is RequestStatus.COMPLETED else str(event.error or event.status.name)
        )

    def _put(self, peer: bytes, message: FromReplica) -> None:
        self._outgoing.put(peer, message)

    async def _tell_of_life(self) -> None:
        while True:
            await asyncio.sleep(ALIVE_SECONDS)
            for peer in self._outgoing.forget_idle(set(self._askers.values())):
                self._put(peer, Alive())

    def _lost(self, peer: bytes) -> None:
        """End what was asked for by one who is gone."""
        self._deaf.discard(peer)
        orphans = [id for id, asker in self._askers.items() if asker == peer]
        if orphans:
            log.warning("whoever asked for %d requests is gone; they are aborted", len(orphans))
        for id in orphans:
            assert self.engine is not None
            self.engine.abort(id)
            self._forget(id, "whoever asked is gone")


def _error(event: Finished) -> Error:
    if event.status is RequestStatus.ABORTED:
        return Error(event.id, "aborted", "the request was aborted")
    if isinstance(event.error, RequestError):
        error = event.error
        return Error(event.id, error.kind, error.message, error.param, error.retry_after)
    log.error("request %s failed", event.id, exc_info=event.error)
    return Error(event.id, "failed", f"{type(event.error).__name__}: {event.error}")
