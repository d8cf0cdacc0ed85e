"""The head's membership service: the master registers replicas, the coordinator hears them and tells the hubs.

Three sockets and one registry. A change of a replica's state is published at once, new loads ten times a second, all
together; so what hubs get grows with the fleet and not with its heartbeats, of which only some are answered. Whatever
is wrong with a message, it is counted and dropped.
"""

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from omni_worker.coordinator.inbox import Inbox, take
from omni_worker.coordinator.messages import (
    MALFORMED,
    Delta,
    Known,
    NewLoad,
    Publication,
    Refused,
    Register,
    RegisterAgain,
    Registered,
    Replica,
    Roll,
    Snapshot,
    decode_register,
    decode_report,
    encode,
)
from omni_worker.coordinator.registry import Refusal, Registry
from omni_worker.errors import CommandError
from omni_worker.transport.keys import FLAG, CurveKeys
from omni_worker.transport.sockets import LARGEST_CONTROL_MESSAGE, make_socket

log = logging.getLogger(__name__)
TICK_SECONDS = 0.1
ABSENT_SECONDS = 1.0  # a tick that is later than that finds the loop stopped, and the replicas' silence not their own
QUIET_SECONDS = 1.0  # after which hubs are told that nothing changed, so that they notice what they missed
SNAPSHOT_SECONDS = 2.0
SNAPSHOT_BYTES_PER_SECOND = 20_000  # large snapshots come more rarely than that
SNAPSHOTS_APART_SECONDS = 0.2
HEARTBEATS_PER_TIMEOUT = 3
LONGEST_HEARTBEAT_SECONDS = 1.0
REJECTED_LOG_SECONDS = 10.0
REASONS_KEPT = 1_000


@dataclass
class Traffic:
    """What went through a coordinator, counted. `rejected` are connections without the right secret."""

    registered: int = 0
    refused: int = 0
    reports: int = 0
    answers: int = 0
    malformed: int = 0
    rejected: int = 0
    published: int = 0
    published_bytes: int = 0


class Coordinator:
    """Master and coordinator of one head. `start` binds, or raises CommandError naming the port; `stop` unbinds."""

    def __init__(
        self,
        registry: Registry,
        host: str,
        master_port: int,
        router_port: int,
        pub_port: int,
        timeout: float,
        keys: CurveKeys | None = None,
    ) -> None:
        self.incarnation = secrets.token_hex(8)
        self.traffic = Traffic()
        self._registry = registry
        self._host = host
        self._ports = {"master": master_port, "coordinator": router_port, "coordinator-pub": pub_port}
        self._timeout = timeout
        self._sequence = 0
        self._changed: list[Replica] = []
        self._published_at = self._snapshot_at = self._rejected_at = float("-inf")
        self._snapshot_bytes = 0
        self._is_snapshot_wanted = False
        self._reasons: dict[str, str] = {}
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(zmq.asyncio.Context.instance())
        kinds = (zmq.ROUTER, zmq.ROUTER, zmq.XPUB)
        self._sockets = [make_socket(context, kind, keys, largest=LARGEST_CONTROL_MESSAGE) for kind in kinds]
        self._master, self._router, self._pub = self._sockets
        self._pub.setsockopt(zmq.XPUB_VERBOSE, 1)  # each hub's subscription counts, not only the first
        failures = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        self._monitors = [socket.get_monitor_socket(failures) for socket in self._sockets]
        self._inboxes = [Inbox(self._master, self._hear_hello), Inbox(self._router, self._hear_report)]
        self._ticking: asyncio.Task[None] | None = None

    @property
    def heartbeat_seconds(self) -> float:
        """How often a replica is asked to report."""
        return min(LONGEST_HEARTBEAT_SECONDS, self._timeout / HEARTBEATS_PER_TIMEOUT)

    def start(self) -> None:
        """Bind the three ports and serve them."""
        self._loop = asyncio.get_running_loop()
        for socket, (name, port) in zip(self._sockets, self._ports.items(), strict=True):
            try:
                socket.bind(f"tcp://{self._host}:{port}")
            except zmq.ZMQError as error:
                raise CommandError(
                    f"the {name} port {port} on {self._host} cannot be used: {error.strerror or error}; "
                    f"stop what listens there, or choose another (--omni-{name}-port)"
                ) from error
        for inbox in self._inboxes:
            inbox.open()
        self._ticking = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        """Stop serving and free the ports."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        for inbox in self._inboxes:
            inbox.close()
        for socket, monitor in zip(self._sockets, self._monitors, strict=True):
            socket.disable_monitor()
            monitor.close(linger=0)
            socket.close(linger=0)

    def lost(self, key: tuple[int, int], uid: str) -> None:
        """Somebody who talks to a replica saw its connection close."""
        self._announce(self._registry.lost(key, uid))

    def _hear_hello(self, message: list[bytes]) -> None:
        peer, *frames = message
        try:
            (frame,) = frames
            hello = decode_register(frame)
        except MALFORMED:
            self.traffic.malformed += 1
            return
        self._master.send_multipart([peer, encode(self._register(hello))], zmq.NOBLOCK)

    def _register(self, hello: Register) -> Registered | Refused:
        try:
            replica, changed = self._registry.register(hello, time.monotonic())
        except Refusal as refusal:
            self.traffic.refused += 1
            self._tell_once(hello.address, str(refusal))
            return Refused(reason=str(refusal))
        self.traffic.registered += 1
        log.info("stage %d replica %d registered at %s", replica.stage_id, replica.replica_id, replica.address)
        self._announce(changed)
        return Registered(
            replica_id=replica.replica_id,
            coordinator_port=self._ports["coordinator"],
            heartbeat_seconds=self.heartbeat_seconds,
            timeout_seconds=self._timeout,
            incarnation=self.incarnation,
        )

    def _hear_report(self, message: list[bytes]) -> None:
        peer, *frames = message
        try:
            (frame,) = frames
            report = decode_report(frame)
        except MALFORMED:
            self.traffic.malformed += 1
            return
        self.traffic.reports += 1
        changed = self._registry.report(report, time.monotonic())
        if changed is None or report.answer:
            self.traffic.answers += 1
            known = Known(incarnation=self.incarnation, count=report.count)
            self._router.send_multipart([peer, encode(RegisterAgain() if changed is None else known)], zmq.NOBLOCK)
        if changed:
            self._announce(changed)

    def _announce(self, changed: list[Replica]) -> None:
        """Publish these changes as soon as the loop has done what it is at."""
        if changed and not self._changed:
            self._loop.call_soon(self._publish_changes)
        self._changed += changed

    async def _tick(self) -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            if now - before > TICK_SECONDS + ABSENT_SECONDS:
                self._registry.excuse(now - before)
            before = now
            self._changed += self._registry.sweep(now)
            self._publish_changes(self._registry.take_loads())
            self._hear_subscribers()
            self._publish_snapshot(now)
            self._hear_rejected(now)

    def _publish_changes(self, loads: list[NewLoad] | None = None) -> None:
        now = time.monotonic()
        if self._changed or loads or now - self._published_at > QUIET_SECONDS:
            self._sequence += 1
            changed, self._changed = Roll.of(self._changed), []
            delta = Delta(incarnation=self.incarnation, sequence=self._sequence, changed=changed, loads=loads or [])
            self._send(delta)
            self._published_at = now

    def _hear_subscribers(self) -> None:
        while (frames := take(self._pub)) is not None:
            # a hub subscribed (1), or does it again after a gap; one that leaves says 0
            self._is_snapshot_wanted |= frames[0][:1] == b"\x01"

    def _publish_snapshot(self, now: float) -> None:
        pause = max(SNAPSHOT_SECONDS, self._snapshot_bytes / SNAPSHOT_BYTES_PER_SECOND)
        if now - self._snapshot_at >= (SNAPSHOTS_APART_SECONDS if self._is_snapshot_wanted else pause):
            everything = Roll.of(self._registry.replicas)
            snapshot = Snapshot(incarnation=self.incarnation, sequence=self._sequence, all=everything)
            self._snapshot_bytes = self._send(snapshot)
            self._snapshot_at, self._is_snapshot_wanted = now, False

    def _send(self, publication: Publication) -> int:
        frame = encode(publication)
        self._pub.send(frame, zmq.NOBLOCK)
        self.traffic.published += 1
        self.traffic.published_bytes += len(frame)
        return len(frame)

    def _hear_rejected(self, now: float) -> None:
        rejected = 0
        for monitor in self._monitors:
            while (event := take(monitor)) is not None:
                rejected += bool(parse_monitor_message(event))
        self.traffic.rejected += rejected
        if rejected and now - self._rejected_at > REJECTED_LOG_SECONDS:
            self._rejected_at = now
            log.warning(
                "rejected %d connections so far that have not the secret of this head, or do not speak its protocol "
                "(%s; all of a pipeline's processes need the same)",
                self.traffic.rejected,
                FLAG,
            )

    def _tell_once(self, address: str, reason: str) -> None:
        """Log a refusal; not again while the same replica only tries again."""
        if self._reasons.get(address) == reason:
            return
        if len(self._reasons) >= REASONS_KEPT:
            self._reasons.clear()
        self._reasons[address] = reason
        log.warning("refused a replica at %s: %s", address, reason)
