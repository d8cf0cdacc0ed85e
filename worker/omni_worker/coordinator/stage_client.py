"""A replica's client for membership: registers with the master, reports to the coordinator, and retries forever.

The replica registers again if the head closes the connection (because it restarted), answers a report with "register
again", or is silent. So a restarted head relearns its fleet within two heartbeats, and a replica that starts before its
head waits for it.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import zmq
import zmq.asyncio
from msgspec.structs import replace
from zmq.utils.monitor import parse_monitor_message

from omni_worker.addresses import host_port, tcp_address
from omni_worker.coordinator.messages import (
    MALFORMED,
    Acknowledged,
    Refused,
    Register,
    RegisterAgain,
    Registered,
    ReplicaLoad,
    ReplicaState,
    Report,
    decode_coordinator_reply,
    decode_master_reply,
    encode,
)
from omni_worker.transport.keys import SECRET_FLAG, CurveKeys
from omni_worker.transport.sockets import MAX_CONTROL_MESSAGE_BYTES, make_socket

log = logging.getLogger(__name__)
REPLY_SECONDS = 2.0
MIN_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 1.0
BACKOFFS_PER_HEARTBEAT = 2.0
ANSWERS_PER_TIMEOUT = 2.0
MAX_UNANSWERED_SECONDS = 5.0  # without an answer, the next report asks for one
MAX_SILENCE_SECONDS = 10.0  # without an answer, the replica registers again
REJECTIONS = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
BROKEN_HANDSHAKE = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL  # the server cannot read the greeting


@dataclass
class RegistrationStatus:
    """Whether a replica is registered.

    last_answer_at: when the coordinator last answered, on the monotonic clock
    timeout: seconds after which an answer is out of date
    refusal: the head's reason, if it refused the last registration
    """

    replica_id: int | None = None
    last_answer_at: float = float("-inf")
    timeout: float = 0.0
    refusal: str | None = None

    def is_registered(self, now: float) -> bool:
        """Whether the coordinator answered within its timeout."""
        return self.replica_id is not None and now - self.last_answer_at <= self.timeout


class StageClient:
    """Keeps one replica registered.

    registration: the message that registers it
    state, load: called for every report
    on_change: called with the status whenever it may have changed
    """

    def __init__(
        self,
        registration: Register,
        master_address: str,
        master_port: int,
        *,
        state: Callable[[], ReplicaState],
        load: Callable[[], ReplicaLoad],
        on_change: Callable[[RegistrationStatus], None],
        keys: CurveKeys | None = None,
    ) -> None:
        self._registration = registration
        self._master = (master_address, master_port)
        self._state = state
        self._load = load
        self._on_change = on_change
        self._keys = keys
        self._context = zmq.asyncio.Context.instance()
        self._count = 0  # the number of the last message
        self._acknowledged = 0  # the last report that the coordinator answered
        self._needed = 0  # the first report that must be answered
        self._heartbeat_seconds = MAX_BACKOFF_SECONDS * BACKOFFS_PER_HEARTBEAT
        self._report_now = asyncio.Event()
        self._must_register = asyncio.Event()
        self._answered = asyncio.Event()
        self.malformed = 0
        self.status = RegistrationStatus()

    async def run(self) -> None:
        """Register and report until the state is DOWN and the head has answered that. Cancel it to end earlier."""
        backoff = MIN_BACKOFF_SECONDS
        while self._state() is not ReplicaState.DOWN:
            registered = await self._register()
            if registered is not None and await self._report(registered):
                backoff = MIN_BACKOFF_SECONDS
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(backoff * 2, self._max_backoff)

    def register_again(self, registration: Register) -> None:
        """Register with other facts about the same process, which keeps its id and its state."""
        self._registration = registration
        self._must_register.set()

    async def report_now(self, timeout: float = REPLY_SECONDS) -> None:
        """Report the state at once. Returns when the coordinator has answered, or after `timeout` seconds."""
        needed = self._needed = self._count + 1
        self._report_now.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._acknowledged < needed:
                    self._answered.clear()
                    await self._answered.wait()

    @property
    def _max_backoff(self) -> float:
        return min(MAX_BACKOFF_SECONDS, self._heartbeat_seconds / BACKOFFS_PER_HEARTBEAT)

    def _next_count(self) -> int:
        self._count += 1
        return self._count

    def _set(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.status, name, value)
        self._on_change(self.status)

    @contextlib.asynccontextmanager
    async def _connected(self, port: int, events: int) -> AsyncIterator[tuple[Any, asyncio.Future[int]]]:
        """A socket that is connected to a port of the head, and a future of the first of these events on it."""
        socket = make_socket(
            self._context,
            zmq.DEALER,
            self._keys,
            max_bytes=MAX_CONTROL_MESSAGE_BYTES,
            reconnect_ms=int(self._max_backoff * 1e3),
            pings=False,  # answers and reports already show that both ends are alive
        )
        socket.setsockopt(zmq.IMMEDIATE, 1)  # never queue messages for a head that is not connected
        monitor = socket.get_monitor_socket(events)
        first_event = asyncio.ensure_future(_event(monitor))
        try:
            socket.connect(tcp_address(self._master[0], port))
            yield socket, first_event
        finally:
            first_event.cancel()
            await asyncio.gather(first_event, return_exceptions=True)
            socket.disable_monitor()
            monitor.close(linger=0)
            socket.close(linger=0)

    # ---- with the master

    async def _register(self) -> Registered | None:
        self._must_register.clear()
        reply = await self._request_registration()
        if reply is None:
            log.debug("no answer from the master at %s", host_port(*self._master))
            self._set()
        elif isinstance(reply, Refused):
            if reply.reason != self.status.refusal:
                log.error("the head refused this replica: %s", reply.reason)
            self._set(replica_id=None, refusal=reply.reason)
        else:
            if self.status.replica_id is None:
                log.info("registered as stage %d replica %d", self._registration.stage_id, reply.replica_id)
            self._heartbeat_seconds = reply.heartbeat_seconds
            self._set(replica_id=reply.replica_id, timeout=reply.timeout_seconds, refusal=None)
            return reply
        return None

    async def _request_registration(self) -> Registered | Refused | None:
        """The master's reply. If it rejects the connection, a Refused with the reason; None if it cannot be reached."""
        try:
            async with self._connected(self._master[1], REJECTIONS | BROKEN_HANDSHAKE) as (socket, rejected):
                reply = asyncio.ensure_future(self._exchange(socket))
                first: set[asyncio.Future[Any]] = {reply, rejected}
                await asyncio.wait(first, timeout=REPLY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if not reply.done():
                    reply.cancel()
                    await asyncio.gather(reply, return_exceptions=True)
                    return self._rejection_reason(rejected.result()) if rejected.done() else None
                return reply.result()
        except zmq.ZMQError as error:
            return Refused(reason=f"the master at {self._master[0]}:{self._master[1]} cannot be reached: {error}")

    async def _exchange(self, socket: Any) -> Registered | Refused:
        await socket.send(encode(replace(self._registration, count=self._next_count())))
        while True:
            try:
                (frame,) = await socket.recv_multipart()
                reply: Registered | Refused = decode_master_reply(frame)
                return reply
            except MALFORMED:
                self.malformed += 1

    def _rejection_reason(self, event: int) -> Refused | None:
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            replica, head = ("a", "none") if self._keys else ("no", "one, or is none of ours")
            return Refused(
                reason=f"this replica has {replica} secret and the head has {head}: give both the same {SECRET_FLAG}"
            )
        if self._keys:
            return Refused(reason=f"the head did not accept this replica's secret: give both the same {SECRET_FLAG}")
        return None

    # ---- with the coordinator

    async def _report(self, registered: Registered) -> bool:
        """Report until the head is lost or wants a new registration. Returns whether it ever answered."""
        acknowledged = self._acknowledged
        async with self._connected(registered.coordinator_port, zmq.EVENT_DISCONNECTED) as (socket, ended):
            tasks = [
                asyncio.ensure_future(work(socket, registered)) for work in (self._receive_answers, self._send_reports)
            ]
            changed = asyncio.ensure_future(self._must_register.wait())
            first: set[asyncio.Future[Any]] = {*tasks, ended, changed}
            try:
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (*tasks, changed):
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, changed, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        self._set()
        return self._acknowledged > acknowledged

    async def _send_reports(self, socket: Any, registered: Registered) -> None:
        """Send reports. Returns if they are not answered for too long."""
        max_silence = min(registered.timeout_seconds, MAX_SILENCE_SECONDS)
        max_unanswered = min(registered.timeout_seconds / ANSWERS_PER_TIMEOUT, MAX_UNANSWERED_SECONDS)
        last_answer_at = time.monotonic()
        reported: ReplicaState | None = None
        while True:
            count, state = self._next_count(), self._state()
            last_answer_at = max(last_answer_at, self.status.last_answer_at)
            if state is not reported:
                self._needed, reported = count, state
            silence = time.monotonic() - last_answer_at
            if silence > max_silence:
                log.warning("the coordinator at %s:%d is silent", self._master[0], registered.coordinator_port)
                return
            answer = self._acknowledged < self._needed or silence > max_unanswered
            identity = self._registration.stage_id, registered.replica_id, self._registration.uid
            report = Report(*identity, count, state, self._load(), answer)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(socket.send(encode(report)), registered.heartbeat_seconds)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._report_now.wait(), registered.heartbeat_seconds)
            self._report_now.clear()

    async def _receive_answers(self, socket: Any, registered: Registered) -> None:
        """Receive answers. Returns if the head wants a new registration, or has restarted."""
        while True:
            try:
                (frame,) = await socket.recv_multipart()
                reply: Acknowledged | RegisterAgain = decode_coordinator_reply(frame)
            except MALFORMED:
                self.malformed += 1
                continue
            if isinstance(reply, RegisterAgain) or reply.incarnation != registered.incarnation:
                return
            self._acknowledged = max(self._acknowledged, reply.count)
            self._set(last_answer_at=time.monotonic())
            self._answered.set()


async def _event(monitor: Any) -> int:
    """The kind of the next event of a monitor."""
    return int(parse_monitor_message(await monitor.recv_multipart())["event"])
