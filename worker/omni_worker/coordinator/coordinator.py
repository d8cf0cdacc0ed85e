"""The head's membership service: the master registers replicas, the coordinator receives their reports, hubs subscribe.

It has three sockets and one registry. A change of a replica's state is published at once. New loads are published
together ten times per second, so the traffic to hubs grows with the fleet and not with the number of heartbeats. Only
some heartbeats are answered. A malformed message is counted and dropped.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from omni_worker.addresses import tcp_address
from omni_worker.coordinator.inbox import Inbox, receive_now
from omni_worker.coordinator.messages import (
    MALFORMED,
    Acknowledged,
    Delta,
    LoadUpdate,
    Publication,
    Refused,
    Register,
    RegisterAgain,
    Registered,
    Replica,
    ReplicaTable,
    Snapshot,
    decode_register,
    decode_report,
    encode,
)
from omni_worker.coordinator.registration_check import shown
from omni_worker.coordinator.registry import RegistrationError, Registry, Unfit
from omni_worker.errors import CommandError
from omni_worker.transport.keys import SECRET_FLAG, CurveKeys
from omni_worker.transport.sockets import MAX_CONTROL_MESSAGE_BYTES, make_socket

log = logging.getLogger(__name__)
TICK_SECONDS = 0.1
MAX_TICK_DELAY_SECONDS = 1.0  # after a longer delay the process was suspended, and did not hear the replicas
QUIET_SECONDS = 1.0  # without changes, an empty delta is published, so that hubs notice if they missed one
SNAPSHOT_SECONDS = 2.0
SNAPSHOT_BYTES_PER_SECOND = 20_000  # large snapshots are published less often
MIN_SNAPSHOT_SECONDS = 0.2
HEARTBEATS_PER_TIMEOUT = 3
MAX_HEARTBEAT_SECONDS = 1.0
REJECTED_LOG_SECONDS = 10.0
MAX_LOGGED_REFUSALS = 1_000
MAX_LOGGED_ADDRESS = 300


@dataclass(frozen=True)
class CoordinatorPorts:
    """Where the head listens: for registrations, for reports, and for subscriptions of hubs."""

    master: int
    coordinator: int
    publisher: int


@dataclass
class TrafficCounts:
    """Messages of one coordinator. `rejected` counts connections without the right secret."""

    registered: int = 0
    refused: int = 0
    reports: int = 0
    answers: int = 0
    malformed: int = 0
    rejected: int = 0
    published: int = 0
    published_bytes: int = 0


class Coordinator:
    """Master and coordinator of one head.

    timeout: seconds of silence after which a replica is in ERROR
    on_unfit: is called with the stage id of each replica that does not fit its stage
    """

    def __init__(
        self,
        registry: Registry,
        host: str,
        ports: CoordinatorPorts,
        timeout: float,
        keys: CurveKeys | None = None,
    ) -> None:
        self.incarnation = secrets.token_hex(8)
        self.traffic = TrafficCounts()
        self.on_unfit: Callable[[int], None] = lambda stage: None
        self._registry = registry
        self._host = host
        self._ports = ports
        self._timeout = timeout
        self._sequence = 0
        self._changed: list[Replica] = []
        self._published_at = self._snapshot_at = self._rejected_at = float("-inf")
        self._snapshot_bytes = 0
        self._is_snapshot_requested = False
        self._logged_refusals: dict[str, str] = {}
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(zmq.asyncio.Context.instance())
        kinds = (zmq.ROUTER, zmq.ROUTER, zmq.XPUB)
        self._sockets = [make_socket(context, kind, keys, max_bytes=MAX_CONTROL_MESSAGE_BYTES) for kind in kinds]
        self._master, self._router, self._pub = self._sockets
        self._pub.setsockopt(zmq.XPUB_VERBOSE, 1)  # report every hub's subscription, not only the first
        failures = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        self._monitors = [socket.get_monitor_socket(failures) for socket in self._sockets]
        self._inboxes = [Inbox(self._master, self._on_registration), Inbox(self._router, self._on_report)]
        self._ticking: asyncio.Task[None] | None = None

    @property
    def heartbeat_seconds(self) -> float:
        """How often a replica must report, in seconds."""
        return min(MAX_HEARTBEAT_SECONDS, self._timeout / HEARTBEATS_PER_TIMEOUT)

    def start(self) -> None:
        """Bind the three ports and serve them. Raises CommandError if a port cannot be used."""
        self._loop = asyncio.get_running_loop()
        flags = {
            "master": self._ports.master,
            "coordinator": self._ports.coordinator,
            "coordinator-pub": self._ports.publisher,
        }
        for socket, (name, port) in zip(self._sockets, flags.items(), strict=True):
            try:
                socket.bind(tcp_address(self._host, port))
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

    def on_disconnect(self, key: tuple[int, int], uid: str) -> None:
        """The data connection to a replica closed."""
        self._publish_soon(self._registry.on_disconnect(key, uid))

    def _on_registration(self, multipart: list[bytes]) -> None:
        peer, *frames = multipart
        try:
            (frame,) = frames
            message = decode_register(frame)
        except MALFORMED:
            self.traffic.malformed += 1
            return
        self._master.send_multipart([peer, encode(self._register(message))], zmq.NOBLOCK)

    def _register(self, message: Register) -> Registered | Refused:
        try:
            replica, changed = self._registry.register(message, time.monotonic())
        except RegistrationError as refusal:
            self.traffic.refused += 1
            if isinstance(refusal, Unfit):
                self.on_unfit(message.stage_id)
            self._log_refusal(message.address, str(refusal))
            return Refused(reason=str(refusal))
        self.traffic.registered += 1
        log.info("stage %d replica %d registered at %s", replica.stage_id, replica.replica_id, replica.address)
        self._publish_soon(changed)
        return Registered(
            replica_id=replica.replica_id,
            coordinator_port=self._ports.coordinator,
            heartbeat_seconds=self.heartbeat_seconds,
            timeout_seconds=self._timeout,
            incarnation=self.incarnation,
        )

    def _on_report(self, multipart: list[bytes]) -> None:
        peer, *frames = multipart
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
            reply = Acknowledged(incarnation=self.incarnation, count=report.count)
            self._router.send_multipart([peer, encode(RegisterAgain() if changed is None else reply)], zmq.NOBLOCK)
        if changed:
            self._publish_soon(changed)

    def _publish_soon(self, changed: list[Replica]) -> None:
        """Publish these changes together, as soon as the event loop is free."""
        if changed and not self._changed:
            self._loop.call_soon(self._publish_changes)
        self._changed += changed

    async def _tick(self) -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            if now - before > TICK_SECONDS + MAX_TICK_DELAY_SECONDS:
                self._registry.excuse_silence(now - before)
            before = now
            self._changed += self._registry.check_silence(now)
            self._publish_changes(self._registry.pop_load_updates())
            self._read_subscriptions()
            self._publish_snapshot(now)
            self._count_rejected(now)

    def _publish_changes(self, loads: list[LoadUpdate] | None = None) -> None:
        now = time.monotonic()
        if self._changed or loads or now - self._published_at > QUIET_SECONDS:
            self._sequence += 1
            changed, self._changed = ReplicaTable.of(self._changed), []
            delta = Delta(incarnation=self.incarnation, sequence=self._sequence, changed=changed, loads=loads or [])
            self._send(delta)
            self._published_at = now

    def _read_subscriptions(self) -> None:
        while (frames := receive_now(self._pub)) is not None:
            # 1: a hub subscribed, or subscribed again after a gap; 0: it unsubscribed
            self._is_snapshot_requested |= frames[0][:1] == b"\x01"

    def _publish_snapshot(self, now: float) -> None:
        pause = max(SNAPSHOT_SECONDS, self._snapshot_bytes / SNAPSHOT_BYTES_PER_SECOND)
        if now - self._snapshot_at >= (MIN_SNAPSHOT_SECONDS if self._is_snapshot_requested else pause):
            everything = ReplicaTable.of(self._registry.replicas)
            snapshot = Snapshot(incarnation=self.incarnation, sequence=self._sequence, all=everything)
            self._snapshot_bytes = self._send(snapshot)
            self._snapshot_at, self._is_snapshot_requested = now, False

    def _send(self, publication: Publication) -> int:
        frame = encode(publication)
        self._pub.send(frame, zmq.NOBLOCK)
        self.traffic.published += 1
        self.traffic.published_bytes += len(frame)
        return len(frame)

    def _count_rejected(self, now: float) -> None:
        rejected = 0
        for monitor in self._monitors:
            while (event := receive_now(monitor)) is not None:
                rejected += bool(parse_monitor_message(event))
        self.traffic.rejected += rejected
        if rejected and now - self._rejected_at > REJECTED_LOG_SECONDS:
            self._rejected_at = now
            log.warning(
                "rejected %d connections so far that have not the secret of this head, or do not speak its protocol "
                "(%s; all of a pipeline's processes need the same)",
                self.traffic.rejected,
                SECRET_FLAG,
            )

    def _log_refusal(self, address: str, reason: str) -> None:
        """Log a refusal, but not again if the same replica retries and is refused for the same reason."""
        address = address[:MAX_LOGGED_ADDRESS]
        if self._logged_refusals.get(address) == reason:
            return
        if len(self._logged_refusals) >= MAX_LOGGED_REFUSALS:
            self._logged_refusals.clear()
        self._logged_refusals[address] = reason
        log.warning("refused a replica at %s: %s", shown(address), reason)
