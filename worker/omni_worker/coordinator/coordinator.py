"""The head's membership service: the master registers replicas, the coordinator hears them and tells the hubs.

Three sockets, one registry, one asyncio task a socket. Malformed messages are counted and dropped.
"""

import asyncio
import logging
import secrets
import time

import msgspec
import zmq
import zmq.asyncio

from omni_worker.coordinator.messages import (
    Delta,
    Known,
    Refused,
    Register,
    RegisterAgain,
    Registered,
    Replica,
    Snapshot,
    decode_register,
    decode_report,
    encode,
)
from omni_worker.coordinator.registry import Refusal, Registry
from omni_worker.errors import CommandError
from omni_worker.sockets import make_socket

log = logging.getLogger(__name__)
SNAPSHOT_SECONDS = 2.0
HEARTBEATS_PER_TIMEOUT = 6


class Coordinator:
    """Master and coordinator of one head. `start` binds, or raises CommandError naming the port; `stop` unbinds."""

    def __init__(
        self, registry: Registry, host: str, master_port: int, router_port: int, pub_port: int, timeout: float
    ) -> None:
        self.incarnation = secrets.token_hex(8)
        self.malformed = 0
        self._registry = registry
        self._host = host
        self._ports = {"master": master_port, "coordinator": router_port, "coordinator-pub": pub_port}
        self._timeout = timeout
        self._sequence = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._context = zmq.asyncio.Context.instance()
        self._master = make_socket(self._context, zmq.ROUTER)
        self._router = make_socket(self._context, zmq.ROUTER)
        self._pub = make_socket(self._context, zmq.XPUB)

    @property
    def heartbeat_seconds(self) -> float:
        """How often a replica is asked to report."""
        return min(1.0, self._timeout / HEARTBEATS_PER_TIMEOUT)

    def start(self) -> None:
        """Bind the three ports and serve them."""
        for socket, (name, port) in zip((self._master, self._router, self._pub), self._ports.items(), strict=True):
            try:
                socket.bind(f"tcp://{self._host}:{port}")
            except zmq.ZMQError as error:
                raise CommandError(
                    f"the {name} port {port} on {self._host} cannot be used: {error.strerror or error}; "
                    f"stop what listens there, or choose another (--omni-{name}-port)"
                ) from error
        for loop in (self._serve_master(), self._serve_router(), self._serve_subscribers(), self._sweep()):
            self._tasks.append(asyncio.create_task(loop))

    async def stop(self) -> None:
        """Stop serving and free the ports."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for socket in (self._master, self._router, self._pub):
            socket.close(linger=0)

    async def lost(self, key: tuple[int, int], uid: str) -> None:
        """Somebody who talks to a replica saw its connection close."""
        await self._publish(self._registry.lost(key, uid))

    async def _serve_master(self) -> None:
        while True:
            peer, *frames = await self._master.recv_multipart()
            try:
                hello = decode_register(frames[-1] if frames else b"")
            except msgspec.MsgspecError:
                self.malformed += 1
                continue
            await self._master.send_multipart([peer, encode(await self._register(hello))])

    async def _register(self, hello: Register) -> Registered | Refused:
        try:
            replica, changed = self._registry.register(hello, time.monotonic())
        except Refusal as refusal:
            log.warning("refused a replica at %s: %s", hello.address, refusal)
            return Refused(reason=str(refusal))
        log.info("stage %d replica %d registered at %s", replica.stage_id, replica.replica_id, replica.address)
        await self._publish(changed)
        return Registered(
            replica_id=replica.replica_id,
            coordinator_port=self._ports["coordinator"],
            heartbeat_seconds=self.heartbeat_seconds,
            timeout_seconds=self._timeout,
            incarnation=self.incarnation,
        )

    async def _serve_router(self) -> None:
        while True:
            peer, *frames = await self._router.recv_multipart()
            try:
                report = decode_report(frames[-1] if frames else b"")
            except msgspec.MsgspecError:
                self.malformed += 1
                continue
            changed = self._registry.report(report, time.monotonic())
            reply = RegisterAgain() if changed is None else Known(incarnation=self.incarnation)
            await self._router.send_multipart([peer, encode(reply)])
            await self._publish(changed or [])

    async def _serve_subscribers(self) -> None:
        while True:
            event = await self._pub.recv()
            if event[:1] == b"\x01":  # a hub subscribed, or asks again after a gap
                await self._publish_snapshot()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(SNAPSHOT_SECONDS, self._timeout / HEARTBEATS_PER_TIMEOUT))
            await self._publish(self._registry.sweep(time.monotonic()))
            await self._publish_snapshot()

    async def _publish(self, changed: list[Replica]) -> None:
        for replica in changed:
            self._sequence += 1
            await self._pub.send(encode(Delta(incarnation=self.incarnation, sequence=self._sequence, replica=replica)))

    async def _publish_snapshot(self) -> None:
        snapshot = Snapshot(incarnation=self.incarnation, sequence=self._sequence, replicas=self._registry.replicas)
        await self._pub.send(encode(snapshot))
