"""A replica's end of the membership: registers with the master, reports to the coordinator, and never gives up.

A head that restarts answers the next heartbeat with "register again"; a head that is silent is looked for anew. So a
fleet is relearned within two heartbeats, and a replica started before its head simply waits.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from omni_worker.coordinator.messages import (
    Heartbeat,
    Known,
    Load,
    Refused,
    Register,
    RegisterAgain,
    Registered,
    State,
    Update,
    decode_coordinator_reply,
    decode_master_reply,
    encode,
)
from omni_worker.sockets import make_socket

log = logging.getLogger(__name__)
REPLY_SECONDS = 2.0
BACKOFF_SECONDS = (0.1, 2.0)


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
        load: Callable[[], Load],
        on_change: Callable[[Membership], None],
    ) -> None:
        self._hello = hello
        self._master = (master_address, master_port)
        self._state = state
        self._load = load
        self._on_change = on_change
        self._context = zmq.asyncio.Context.instance()
        self._report_now = asyncio.Event()
        self._reported = asyncio.Event()
        self.membership = Membership()

    async def run(self) -> None:
        """Register and report for ever; cancel to end."""
        backoff, longest = BACKOFF_SECONDS
        while True:
            welcome = await self._register()
            if welcome is not None:
                backoff = BACKOFF_SECONDS[0]
                await self._report(welcome)
                self._set(replica_id=None)
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(backoff * 2, longest)

    async def report_now(self, timeout: float = REPLY_SECONDS) -> None:
        """Tell the coordinator the state at once; returns when it has answered, or after `timeout` seconds."""
        self._reported.clear()
        self._report_now.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._reported.wait(), timeout)

    async def _register(self) -> Registered | None:
        socket = make_socket(self._context, zmq.DEALER)
        try:
            socket.connect(f"tcp://{self._master[0]}:{self._master[1]}")
            await socket.send(encode(self._hello))
            reply: Registered | Refused = decode_master_reply(await asyncio.wait_for(socket.recv(), REPLY_SECONDS))
        except (TimeoutError, zmq.ZMQError, msgspec.MsgspecError) as error:
            log.debug("no answer from the master at %s:%d: %r", *self._master, error)
            return None
        finally:
            socket.close(linger=0)
        if isinstance(reply, Refused):
            if reply.reason != self.membership.refusal:
                log.error("the head refused this replica: %s", reply.reason)
            self._set(replica_id=None, refusal=reply.reason)
            return None
        log.info("registered as stage %d replica %d", self._hello.stage_id, reply.replica_id)
        self._set(replica_id=reply.replica_id, timeout=reply.timeout_seconds, refusal=None)
        return reply

    async def _report(self, welcome: Registered) -> None:
        """Report until the coordinator does not know this replica, is another one, or falls silent."""
        socket = make_socket(self._context, zmq.DEALER)
        socket.setsockopt(zmq.IMMEDIATE, 1)  # never queue reports for a peer that is not there
        socket.connect(f"tcp://{self._master[0]}:{welcome.coordinator_port}")
        identity: dict[str, Any] = {
            "stage_id": self._hello.stage_id,
            "replica_id": welcome.replica_id,
            "uid": self._hello.uid,
        }
        silent_since = time.monotonic()
        told: State | None = None
        try:
            while time.monotonic() - silent_since < welcome.timeout_seconds:
                state = self._state()
                load = self._load()
                news = Heartbeat(**identity, load=load) if state is told else Update(**identity, state=state, load=load)
                reply = await self._ask(socket, encode(news))
                if isinstance(reply, RegisterAgain):
                    return
                if isinstance(reply, Known):
                    if reply.incarnation != welcome.incarnation:
                        return
                    silent_since, told = time.monotonic(), state
                    self._set(heard=silent_since)
                    self._reported.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._report_now.wait(), welcome.heartbeat_seconds)
                self._report_now.clear()
        finally:
            socket.close(linger=0)

    @staticmethod
    async def _ask(socket: Any, message: bytes) -> Known | RegisterAgain | None:
        try:
            await asyncio.wait_for(socket.send(message), REPLY_SECONDS)
            reply: Known | RegisterAgain = decode_coordinator_reply(
                await asyncio.wait_for(socket.recv(), REPLY_SECONDS)
            )
            return reply
        except (TimeoutError, zmq.ZMQError, msgspec.MsgspecError):
            return None

    def _set(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.membership, name, value)
        self._on_change(self.membership)
