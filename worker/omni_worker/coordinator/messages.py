"""Every message of the membership protocol, as msgpack. A malformed one raises one of `MALFORMED`.

What is sent once in a while are maps, which explain themselves; reports and publications are arrays, for there are
thousands of them a second in a large fleet.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import msgspec

from omni_worker.model_card import ModelCard

MALFORMED = (msgspec.MsgspecError, ValueError, RecursionError)
CHANGE_OF_STEP_MS = 0.1  # the share by which the mean step has to change to be news

Number = Annotated[int, msgspec.Meta(ge=0)]


class State(StrEnum):
    """STARTING → UP → DRAINING → DOWN; silence or a lost connection turns UP into ERROR, a heartbeat turns it back."""

    STARTING = "STARTING"
    UP = "UP"
    DRAINING = "DRAINING"
    ERROR = "ERROR"
    DOWN = "DOWN"


class ReplicaLoad(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A replica's own account of its work. `step_ms` is the mean of its last model calls."""

    queue_length: Number = 0
    running: Number = 0
    capacity: Number = 1
    completed: Number = 0
    step_ms: float = 0.0

    def is_news_after(self, other: "ReplicaLoad") -> bool:
        """Whether it differs from `other` by more than a mean that has wandered a little."""
        return (
            self.queue_length != other.queue_length
            or self.running != other.running
            or self.completed != other.completed
            or self.capacity != other.capacity
            or abs(self.step_ms - other.step_ms) > CHANGE_OF_STEP_MS * other.step_ms
        )


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One replica, as the hubs see it. `address` is where its data socket is: tcp://host:port."""

    stage_id: int
    replica_id: int
    uid: str
    address: str
    state: State
    card: ModelCard
    load: ReplicaLoad = ReplicaLoad()
    host: str = ""

    @property
    def key(self) -> tuple[int, int]:
        """Stage and replica id: unique among the replicas of one head."""
        return self.stage_id, self.replica_id


# ---- replica → master, and back


class Register(msgspec.Struct, frozen=True, kw_only=True, tag="register"):
    """Hello. `uid` is the process's own; saying it again gives the same id. `count` numbers all that it ever sends."""

    stage_id: Number
    uid: str
    address: str
    engine: str
    digest: str
    card: ModelCard
    capacity: Number = 1
    host: str = ""
    count: Number = 0


class Registered(msgspec.Struct, frozen=True, kw_only=True, tag="registered"):
    """Welcome. The coordinator listens on the master's host; `incarnation` names this life of the head."""

    replica_id: int
    coordinator_port: int
    heartbeat_seconds: float
    timeout_seconds: float
    incarnation: str


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """No; `reason` says why in words for a person."""

    reason: str


MasterReply = Registered | Refused


# ---- replica → coordinator, and back


class Report(msgspec.Struct, frozen=True, array_like=True):
    """A replica's state and load: each report says all, so that the next makes a lost one good.

    One that changes the state is an update, any other a heartbeat. `count` numbers all that the process ever sends, so
    that one which comes twice or late is known. With `answer` the coordinator says that it has heard.
    """

    stage_id: Number
    replica_id: Number
    uid: str
    count: Number
    state: State
    load: ReplicaLoad = ReplicaLoad()
    answer: bool = False


class Known(msgspec.Struct, frozen=True, kw_only=True, tag="known"):
    """The coordinator has heard the report number `count`."""

    incarnation: str
    count: int


class RegisterAgain(msgspec.Struct, frozen=True, kw_only=True, tag="register-again"):
    """The coordinator does not know this replica: it was restarted, or had given the replica up."""


CoordinatorReply = Known | RegisterAgain


# ---- coordinator → hubs


class Listed(msgspec.Struct, frozen=True, array_like=True):
    """A Replica on the wire; its card is number `card` of the roll."""

    stage_id: int
    replica_id: int
    uid: str
    address: str
    state: State
    card: Number
    load: ReplicaLoad
    host: str


class Roll(msgspec.Struct, frozen=True, array_like=True):
    """Replicas on the wire: a card that many share goes once."""

    cards: list[ModelCard] = []
    listed: list[Listed] = []

    def __post_init__(self) -> None:
        if any(one.card >= len(self.cards) for one in self.listed):
            raise ValueError(f"a replica's card is not among the {len(self.cards)}")

    @classmethod
    def of(cls, replicas: Iterable[Replica]) -> "Roll":
        """These replicas, in their order."""
        cards: dict[ModelCard, int] = {}
        listed = [
            Listed(
                one.stage_id,
                one.replica_id,
                one.uid,
                one.address,
                one.state,
                cards.setdefault(one.card, len(cards)),
                one.load,
                one.host,
            )
            for one in replicas
        ]
        return cls(list(cards), listed)

    @property
    def replicas(self) -> list[Replica]:
        """The replicas in it."""
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
            )
            for one in self.listed
        ]


class NewLoad(msgspec.Struct, frozen=True, array_like=True):
    """The load of a replica that the hubs know."""

    stage_id: int
    replica_id: int
    load: ReplicaLoad


class Delta(msgspec.Struct, frozen=True, kw_only=True, tag="delta", array_like=True):
    """What changed: replicas, and the loads of others. One with nothing in it says that nothing did.

    `sequence` is one more than the last; a gap means that something was lost.
    """

    incarnation: str
    sequence: int
    changed: Roll = Roll()
    loads: list[NewLoad] = []


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot", array_like=True):
    """All replicas, as of `sequence`."""

    incarnation: str
    sequence: int
    all: Roll


Publication = Delta | Snapshot

encode = msgspec.msgpack.Encoder().encode
decode_register = msgspec.msgpack.Decoder(Register).decode
decode_master_reply = msgspec.msgpack.Decoder(MasterReply).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
decode_coordinator_reply = msgspec.msgpack.Decoder(CoordinatorReply).decode
decode_publication = msgspec.msgpack.Decoder(Publication).decode
