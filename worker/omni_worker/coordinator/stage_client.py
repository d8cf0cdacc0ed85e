"""A replica's end of the membership: registers with the master, reports to the coordinator, and never gives up.

A head that restarts closes the connection, and so sends the replica back to the master; one that has forgotten the
replica answers the next report with "register again"; one that is silent is looked for anew. So a fleet is relearned
within two heartbeats, and a replica started before its head simply waits.
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

from omni_worker.coordinator.messages import (
    MALFORMED,
    Known,
    Refused,
    Register,
    RegisterAgain,
    Registered,
    ReplicaLoad,
    Report,
    State,
    decode_coordinator_reply,
    decode_master_reply,
    encode,
)
from omni_worker.transport.keys import FLAG, CurveKeys
from omni_worker.transport.sockets import LARGEST_CONTROL_MESSAGE, make_socket

log = logging.getLogger(__name__)
REPLY_SECONDS = 2.0
SHORTEST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 1.0
BACKOFFS_PER_HEARTBEAT = 2.0
ANSWERS_PER_TIMEOUT = 2.0
LONGEST_UNASKED_SECONDS = 5.0  # after which an answer is asked for
LONGEST_SILENCE_SECONDS = 10.0  # without an answer, after which the head is looked for anew
REJECTIONS = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
BROKEN_OFF = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL  # how a server that cannot read the greeting ends it


@dataclass
class Membership:
    """How things stand: `refusal` is the head's reason, if it refused the last registration."""

    replica_id: int | None = None
    heard: float = float("-inf")
    timeout: float = 0.0
    refusal: str | None = None

    def is_registered(self, now: float) -> bool:
        """Whether the coordinator answered within its timeout."""
        return self.replica_id is not None and now - self.heard <= self.timeout


class StageClient:
    """Keeps one replica registered. `state` and `load` are asked for whenever a report goes out."""

    def __init__(
        self,
        hello: Register,
        master_address: str,
        master_port: int,
        state: Callable[[], State],
        load: Callable[[], ReplicaLoad],
        on_change: Callable[[Membership], None],
        keys: CurveKeys | None = None,
    ) -> None:
        self._hello = hello
        self._master = (master_address, master_port)
        self._state = state
        self._load = load
        self._on_change = on_change
        self._keys = keys
        self._context = zmq.asyncio.Context.instance()
        self._count = 0  # of the last message
        self._acknowledged = 0  # the last report that the coordinator answered
        self._needed = 0  # the first report whose answer somebody waits for
        self._heartbeat_seconds = LONGEST_BACKOFF_SECONDS * BACKOFFS_PER_HEARTBEAT
        self._report_now = asyncio.Event()
        self._heard = asyncio.Event()
        self.malformed = 0
        self.membership = Membership()

    async def run(self) -> None:
        """Register and report until the state is DOWN and the head knows it; cancel to end before."""
        backoff = SHORTEST_BACKOFF_SECONDS
        while self._state() is not State.DOWN:
            welcome = await self._register()
            if welcome is not None and await self._report(welcome):
                backoff = SHORTEST_BACKOFF_SECONDS
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(backoff * 2, self._longest_backoff)

    async def report_now(self, timeout: float = REPLY_SECONDS) -> None:
        """Tell the coordinator the state at once; returns when it has answered, or after `timeout` seconds."""
        needed = self._needed = self._count + 1
        self._report_now.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._acknowledged < needed:
                    self._heard.clear()
                    await self._heard.wait()

    @property
    def _longest_backoff(self) -> float:
        return min(LONGEST_BACKOFF_SECONDS, self._heartbeat_seconds / BACKOFFS_PER_HEARTBEAT)

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _set(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.membership, name, value)
        self._on_change(self.membership)

    @contextlib.asynccontextmanager
    async def _connected(self, port: int, events: int) -> AsyncIterator[tuple[Any, asyncio.Future[int]]]:
        """A socket that is connected to a port of the head, and the first of these events to happen to it."""
        socket = make_socket(
            self._context,
            zmq.DEALER,
            self._keys,
            largest=LARGEST_CONTROL_MESSAGE,
            reconnect_ms=int(self._longest_backoff * 1e3),
            pings=False,  # answers show that the head is there, and reports that the replica is
        )
        socket.setsockopt(zmq.IMMEDIATE, 1)  # never queue messages for a peer that is not there
        monitor = socket.get_monitor_socket(events)
        happened = asyncio.ensure_future(_event(monitor))
        try:
            socket.connect(f"tcp://{self._master[0]}:{port}")
            yield socket, happened
        finally:
            happened.cancel()
            await asyncio.gather(happened, return_exceptions=True)
            socket.disable_monitor()
            monitor.close(linger=0)
            socket.close(linger=0)

    # ---- with the master

    async def _register(self) -> Registered | None:
        reply = await self._reply()
        if reply is None:
            log.debug("no answer from the master at %s:%d", *self._master)
            self._set()
        elif isinstance(reply, Refused):
            if reply.reason != self.membership.refusal:
                log.error("the head refused this replica: %s", reply.reason)
            self._set(replica_id=None, refusal=reply.reason)
        else:
            log.info("registered as stage %d replica %d", self._hello.stage_id, reply.replica_id)
            self._heartbeat_seconds = reply.heartbeat_seconds
            self._set(replica_id=reply.replica_id, timeout=reply.timeout_seconds, refusal=None)
            return reply
        return None

    async def _reply(self) -> Registered | Refused | None:
        """The master's reply, or what the end of the connection says; None when it is not there."""
        try:
            async with self._connected(self._master[1], REJECTIONS | BROKEN_OFF) as (socket, rejected):
                greeted = asyncio.ensure_future(self._greet(socket))
                first: set[asyncio.Future[Any]] = {greeted, rejected}
                await asyncio.wait(first, timeout=REPLY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if not greeted.done():
                    greeted.cancel()
                    await asyncio.gather(greeted, return_exceptions=True)
                    return self._why(rejected.result()) if rejected.done() else None
                return greeted.result()
        except zmq.ZMQError as error:
            return Refused(reason=f"the master at {self._master[0]}:{self._master[1]} cannot be reached: {error}")

    async def _greet(self, socket: Any) -> Registered | Refused:
        await socket.send(encode(replace(self._hello, count=self._next())))
        while True:
            try:
                (frame,) = await socket.recv_multipart()
                reply: Registered | Refused = decode_master_reply(frame)
                return reply
            except MALFORMED:
                self.malformed += 1

    def _why(self, event: int) -> Refused | None:
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            own, other = ("a", "none") if self._keys else ("no", "one, or is none of ours")
            return Refused(reason=f"this replica has {own} secret and the head has {other}: give both the same {FLAG}")
        if self._keys:
            return Refused(reason=f"the head did not accept this replica's secret: give both the same {FLAG}")
        return None

    # ---- with the coordinator

    async def _report(self, welcome: Registered) -> bool:
        """Report until the head is lost, or knows this replica no more; whether it ever answered."""
        acknowledged = self._acknowledged
        async with self._connected(welcome.coordinator_port, zmq.EVENT_DISCONNECTED) as (socket, ended):
            tasks = [asyncio.ensure_future(work(socket, welcome)) for work in (self._hear, self._tell)]
            first: set[asyncio.Future[Any]] = {*tasks, ended}
            try:
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        self._set()
        return self._acknowledged > acknowledged

    async def _tell(self, socket: Any, welcome: Registered) -> None:
        """Send reports; returns when they are not answered."""
        longest = min(welcome.timeout_seconds, LONGEST_SILENCE_SECONDS)
        unasked = min(welcome.timeout_seconds / ANSWERS_PER_TIMEOUT, LONGEST_UNASKED_SECONDS)
        heard = time.monotonic()
        told: State | None = None
        while True:
            count, state, heard = self._next(), self._state(), max(heard, self.membership.heard)
            if state is not told:
                self._needed, told = count, state
            silence = time.monotonic() - heard
            if silence > longest:
                log.warning("the coordinator at %s:%d is silent", self._master[0], welcome.coordinator_port)
                return
            answer = self._acknowledged < self._needed or silence > unasked
            identity = self._hello.stage_id, welcome.replica_id, self._hello.uid
            report = Report(*identity, count, state, self._load(), answer)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(socket.send(encode(report)), welcome.heartbeat_seconds)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._report_now.wait(), welcome.heartbeat_seconds)
            self._report_now.clear()

    async def _hear(self, socket: Any, welcome: Registered) -> None:
        """Take answers; returns when the head does not know this replica, or is another one."""
        while True:
            try:
                (frame,) = await socket.recv_multipart()
                reply: Known | RegisterAgain = decode_coordinator_reply(frame)
            except MALFORMED:
                self.malformed += 1
                continue
            if isinstance(reply, RegisterAgain) or reply.incarnation != welcome.incarnation:
                return
            self._acknowledged = max(self._acknowledged, reply.count)
            self._set(heard=time.monotonic())
            self._heard.set()


async def _event(monitor: Any) -> int:
    """The kind of the first event that a monitor tells."""
    return int(parse_monitor_message(await monitor.recv_multipart())["event"])
