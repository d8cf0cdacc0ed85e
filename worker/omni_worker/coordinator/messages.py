"""Every message of the membership protocol, in msgpack. Decoding a malformed one raises one of `MALFORMED`.

Rare messages are maps, which explain themselves. Reports and publications are arrays, because a large fleet sends
thousands of them per second.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import msgspec

from omni_worker.coordinator.loras import HeldLoras
from omni_worker.model_card import ModelCard

MALFORMED = (msgspec.MsgspecError, ValueError, RecursionError)
STEP_MS_TOLERANCE = 0.1  # a smaller relative change of the mean step is not published

Number = Annotated[int, msgspec.Meta(ge=0)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class ReplicaState(StrEnum):
    """STARTING → UP → DRAINING → DOWN; silence or a lost connection turns UP into ERROR, a heartbeat turns it back."""

    STARTING = "STARTING"
    UP = "UP"
    DRAINING = "DRAINING"
    ERROR = "ERROR"
    DOWN = "DOWN"


class ReplicaLoad(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The load that a replica reports. `step_ms` is the mean time of a step."""

    queue_length: Number = 0
    running: Number = 0
    capacity: Number = 1
    completed: Number = 0
    step_ms: Milliseconds = 0.0

    def differs_from(self, other: "ReplicaLoad") -> bool:
        """Whether the load must be published again after `other`. Small changes of `step_ms` do not count."""
        return (
            self.queue_length != other.queue_length
            or self.running != other.running
            or self.completed != other.completed
            or self.capacity != other.capacity
            or abs(self.step_ms - other.step_ms) > STEP_MS_TOLERANCE * other.step_ms
        )


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One replica, as the hubs see it. `address` is that of its data socket: tcp://host:port."""

    stage_id: int
    replica_id: int
    uid: str
    address: str
    state: ReplicaState
    card: ModelCard
    load: ReplicaLoad = ReplicaLoad()
    host: str = ""
    loras: HeldLoras = HeldLoras()

    @property
    def key(self) -> tuple[int, int]:
        """Stage id and replica id, unique among the replicas of one head."""
        return self.stage_id, self.replica_id


# ---- replica → master, and back


class Register(msgspec.Struct, frozen=True, kw_only=True, tag="register"):
    """Registers a replica. `uid` names its process, which keeps its id when it registers again, as it does whenever
    its adapters change.

    `count` numbers all messages of the process.
    """

    stage_id: Number
    uid: str
    address: str
    engine: str
    digest: str
    card: ModelCard
    capacity: Number = 1
    host: str = ""
    count: Number = 0
    loras: HeldLoras = HeldLoras()


class Registered(msgspec.Struct, frozen=True, kw_only=True, tag="registered"):
    """The registration was accepted. The coordinator listens on the master's host.

    `incarnation` changes whenever the head restarts.
    """

    replica_id: int
    coordinator_port: int
    heartbeat_seconds: float
    timeout_seconds: float
    incarnation: str


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The registration was refused. `reason` is a message for a person."""

    reason: str


MasterReply = Registered | Refused


# ---- replica → coordinator, and back


class Report(msgspec.Struct, frozen=True, array_like=True):
    """A replica's state and load. Every report is complete, so the next one makes up for a lost one.

    A report that changes the state is an update, any other a heartbeat. `count` numbers all messages of the process, so
    that a report that arrives twice or late can be ignored. `answer` asks the coordinator for an Acknowledged.
    """

    stage_id: Number
    replica_id: Number
    uid: str
    count: Number
    state: ReplicaState
    load: ReplicaLoad = ReplicaLoad()
    answer: bool = False


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True, tag="known"):
    """The coordinator received the report with this `count`."""

    incarnation: str
    count: int


class RegisterAgain(msgspec.Struct, frozen=True, kw_only=True, tag="register-again"):
    """The replica is not registered: the head restarted, or had removed it after a long silence."""


CoordinatorReply = Acknowledged | RegisterAgain


# ---- coordinator → hubs


class ReplicaEntry(msgspec.Struct, frozen=True, array_like=True):
    """A Replica on the wire. `card` and `loras` are the indices of its model card and its adapters in the table."""

    stage_id: int
    replica_id: int
    uid: str
    address: str
    state: ReplicaState
    card: Number
    load: ReplicaLoad
    host: str
    loras: Number


class ReplicaTable(msgspec.Struct, frozen=True, array_like=True):
    """Replicas on the wire. Model cards and adapters that several replicas share are sent once."""

    cards: list[ModelCard] = []
    loras: list[HeldLoras] = []
    entries: list[ReplicaEntry] = []

    def __post_init__(self) -> None:
        if any(one.card >= len(self.cards) for one in self.entries):
            raise ValueError(f"a replica's card is not among the {len(self.cards)}")
        if any(one.loras >= len(self.loras) for one in self.entries):
            raise ValueError(f"a replica's adapters are not among the {len(self.loras)}")

    @classmethod
    def of(cls, replicas: Iterable[Replica]) -> "ReplicaTable":
        """A table of these replicas, in the same order."""
        cards: dict[ModelCard, int] = {}
        loras: dict[HeldLoras, int] = {}
        entries = [
            ReplicaEntry(
                one.stage_id,
                one.replica_id,
                one.uid,
                one.address,
                one.state,
                cards.setdefault(one.card, len(cards)),
                one.load,
                one.host,
                loras.setdefault(one.loras, len(loras)),
            )
            for one in replicas
        ]
        return cls(list(cards), list(loras), entries)

    @property
    def replicas(self) -> list[Replica]:
        """The replicas of the table, in its order."""
        return [
            Replica(
                stage_id=one.stage_id,
                replica_id=one.replica_id,
                uid=one.uid,
                address=one.address,
                state=one.state,
                card=self.cards[one.card],
                load=one.load,
                host=one.host,
                loras=self.loras[one.loras],
            )
            for one in self.entries
        ]


class LoadUpdate(msgspec.Struct, frozen=True, array_like=True):
    """The new load of a replica that was published before."""

    stage_id: int
    replica_id: int
    load: ReplicaLoad


class Delta(msgspec.Struct, frozen=True, kw_only=True, tag="delta", array_like=True):
    """The changes since the last publication: replicas, and the loads of others. It may be empty.

    `sequence` is one more than that of the last delta. After a gap, the hub needs a snapshot.
    """

    incarnation: str
    sequence: int
    changed: ReplicaTable = ReplicaTable()
    loads: list[LoadUpdate] = []


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot", array_like=True):
    """All replicas, as of the delta with this `sequence`."""

    incarnation: str
    sequence: int
    all: ReplicaTable


Publication = Delta | Snapshot

encode = msgspec.msgpack.Encoder().encode
decode_register = msgspec.msgpack.Decoder(Register).decode
decode_master_reply = msgspec.msgpack.Decoder(MasterReply).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
decode_coordinator_reply = msgspec.msgpack.Decoder(CoordinatorReply).decode
decode_publication = msgspec.msgpack.Decoder(Publication).decode
