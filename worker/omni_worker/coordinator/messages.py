"""Every message of the membership protocol, as msgpack. A malformed one raises `msgspec.DecodeError`."""

from enum import StrEnum

import msgspec

from omni_worker.requests import ModelCard


class State(StrEnum):
    """STARTING → UP → DRAINING → DOWN; silence or a lost connection turns UP into ERROR, a heartbeat turns it back."""

    STARTING = "STARTING"
    UP = "UP"
    DRAINING = "DRAINING"
    ERROR = "ERROR"
    DOWN = "DOWN"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A replica's own account of its work. `step_ms` is the mean of its last model calls."""

    queue_length: int = 0
    running: int = 0
    capacity: int = 1
    completed: int = 0
    step_ms: float = 0.0


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One replica, as the hubs see it. `address` is where its data socket is: tcp://host:port."""

    stage_id: int
    replica_id: int
    uid: str
    address: str
    state: State
    card: ModelCard
    load: Load = Load()
    host: str = ""

    @property
    def key(self) -> tuple[int, int]:
        """Stage and replica id: unique among the replicas of one head."""
        return self.stage_id, self.replica_id


# ---- replica → master, and back


class Register(msgspec.Struct, frozen=True, kw_only=True, tag="register"):
    """Hello. `uid` is the process's own; saying it again gives the same id."""

    stage_id: int
    uid: str
    address: str
    engine: str
    digest: str
    card: ModelCard
    capacity: int = 1
    host: str = ""


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


class Update(msgspec.Struct, frozen=True, kw_only=True, tag="update"):
    """The replica's state changed."""

    stage_id: int
    replica_id: int
    uid: str
    state: State
    load: Load = Load()


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag="heartbeat"):
    """The replica lives, and this is its load."""

    stage_id: int
    replica_id: int
    uid: str
    load: Load = Load()


class Known(msgspec.Struct, frozen=True, kw_only=True, tag="known"):
    """The coordinator has heard."""

    incarnation: str


class RegisterAgain(msgspec.Struct, frozen=True, kw_only=True, tag="register-again"):
    """The coordinator does not know this replica: it was restarted, or had given the replica up."""


Report = Update | Heartbeat
CoordinatorReply = Known | RegisterAgain


# ---- coordinator → hubs


class Delta(msgspec.Struct, frozen=True, kw_only=True, tag="delta"):
    """One replica changed. `sequence` is one more than the last; a gap means that something was lost."""

    incarnation: str
    sequence: int
    replica: Replica


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """All replicas, as of `sequence`."""

    incarnation: str
    sequence: int
    replicas: list[Replica]


Publication = Delta | Snapshot

encode = msgspec.msgpack.Encoder().encode
decode_register = msgspec.msgpack.Decoder(Register).decode
decode_master_reply = msgspec.msgpack.Decoder(MasterReply).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
decode_coordinator_reply = msgspec.msgpack.Decoder(CoordinatorReply).decode
decode_publication = msgspec.msgpack.Decoder(Publication).decode
