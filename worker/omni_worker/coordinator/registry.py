"""The replicas of a head and their states. Pure: the caller passes the time, so tests can produce any interleaving.

Methods return every replica that changed. A replica that left is returned once, as DOWN. Changes of the load alone,
which are frequent, are collected until `pop_load_updates`.

Messages may arrive twice, late and in any order. Each carries the `uid` of its process and a number, and is ignored
unless its number is higher than the last. The state of a process only moves forward: STARTING → UP → DRAINING → DOWN.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from msgspec.structs import replace

from omni_worker.coordinator.messages import LoadUpdate, Register, Replica, ReplicaLoad, ReplicaState, Report
from omni_worker.coordinator.registration_check import why_unusable

FORGET_AFTER_TIMEOUTS = 4.0  # timeouts of silence until a replica is removed and its id is free again
NO_LOAD = ReplicaLoad()
STATE_ORDER = {ReplicaState.STARTING: 0, ReplicaState.UP: 1, ReplicaState.DRAINING: 2, ReplicaState.DOWN: 3}


class RegistrationError(Exception):
    """A registration must be refused. The message is for a person."""


class Unfit(RegistrationError):
    """The replica does not fit its stage, and will not at its next try either."""


@dataclass
class _Entry:
    """A replica and its last message.

    last_message_at: when the message arrived
    count: the number of the message
    reported_state: the last state that the replica reported; only the registry itself sets ERROR
    """

    replica: Replica
    last_message_at: float
    count: int
    reported_state: ReplicaState = ReplicaState.STARTING
    load: ReplicaLoad = NO_LOAD


class Registry:
    """The replicas of one head. Times are in seconds on any monotonic clock.

    digests: the digest of each stage's model, by stage id
    engines: the engine kind of each stage
    timeout: seconds of silence after which a replica is in ERROR
    """

    def __init__(self, digests: Mapping[int, str], engines: Mapping[int, str], timeout: float) -> None:
        self._digests = digests
        self._engines = engines
        self._timeout = timeout
        self._entries: dict[tuple[int, int], _Entry] = {}
        self._departed: dict[str, tuple[int, float]] = {}  # by uid: the number and time of the last message
        self._changed_loads: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def replicas(self) -> list[Replica]:
        """All replicas, by stage and id."""
        return [_current(self._entries[key]) for key in sorted(self._entries)]

    def register(self, message: Register, now: float) -> tuple[Replica, list[Replica]]:
        """Add a replica as STARTING with the lowest free id. Returns it, and all replicas that changed.

        A process that registers again keeps its id and its state. A replica with the address of another replaces it,
        because only one of them can listen there.

        Raises RegistrationError if the replica does not fit its stage, or if the message is out of date.
        """
        self._check(message)
        key, changed = None, []
        for entry in list(self._entries.values()):
            if entry.replica.uid == message.uid and entry.replica.stage_id == message.stage_id:
                if message.count <= entry.count:
                    return _current(entry), []
                key = entry.replica.key
            elif entry.replica.address == message.address:
                changed.append(self._remove(entry.replica.key, now))
        before = self._entries.get(key) if key else None
        entry = _Entry(self._new_replica(message, key), now, message.count)
        if before is not None:
            entry.reported_state, entry.load = before.reported_state, before.load
            entry.replica = replace(entry.replica, state=before.reported_state)
        self._entries[entry.replica.key] = entry
        self._departed.pop(message.uid, None)
        if before is None or before.replica != entry.replica:
            changed.append(_current(entry))
        return _current(entry), changed

    def report(self, message: Report, now: float) -> list[Replica] | None:
        """Record an update or heartbeat. Returns what changed, without loads; None if it must register again."""
        entry = self._entries.get((message.stage_id, message.replica_id))
        if entry is None or entry.replica.uid != message.uid:
            return [] if message.state is ReplicaState.DOWN else None
        if message.count <= entry.count:
            return []
        entry.last_message_at, entry.count = now, message.count
        if message.state is ReplicaState.DOWN:
            return [self._remove(entry.replica.key, now)]
        if message.load.differs_from(entry.load):
            entry.load = message.load
            self._changed_loads.add(entry.replica.key)
        if (
            message.state is not entry.reported_state
            and STATE_ORDER.get(message.state, -1) > STATE_ORDER[entry.reported_state]
        ):
            entry.reported_state = message.state
        return self._change(entry, entry.reported_state)

    def pop_load_updates(self) -> list[LoadUpdate]:
        """The loads that changed since the last call."""
        loads = [
            LoadUpdate(*key, self._entries[key].load) for key in sorted(self._changed_loads) if key in self._entries
        ]
        self._changed_loads.clear()
        return loads

    def silence(self, now: float) -> dict[tuple[int, int], float]:
        """The seconds since the last message of each replica."""
        return {key: now - entry.last_message_at for key, entry in self._entries.items()}

    def on_disconnect(self, key: tuple[int, int], uid: str) -> list[Replica]:
        """The data connection to a replica closed: it is in ERROR until its next message. Returns the changes."""
        entry = self._entries.get(key)
        return [] if entry is None or entry.replica.uid != uid else self._change(entry, ReplicaState.ERROR)

    def check_silence(self, now: float) -> list[Replica]:
        """Put silent replicas into ERROR, and remove those that have been silent for long. Returns the changes."""
        changed = []
        for key, entry in list(self._entries.items()):
            silence = now - entry.last_message_at
            if silence > self._timeout * FORGET_AFTER_TIMEOUTS:
                changed.append(self._remove(key, now))
            elif silence > self._timeout:
                changed += self._change(entry, ReplicaState.ERROR)
        for uid, (_, left) in list(self._departed.items()):
            if now - left > self._timeout * FORGET_AFTER_TIMEOUTS:
                del self._departed[uid]
        return changed

    def excuse_silence(self, seconds: float) -> None:
        """Do not count the last `seconds` as silence, because the head itself did not listen."""
        for entry in self._entries.values():
            entry.last_message_at += seconds

    def _check(self, message: Register) -> None:
        if (reason := why_unusable(message)) is not None:
            raise Unfit(reason)
        stage = message.stage_id
        if stage not in self._digests:
            raise Unfit(f"there is no stage {stage}; this pipeline has {sorted(self._digests)}")
        if message.engine != self._engines[stage]:
            raise Unfit(
                f"this replica's engine is {message.engine!r}, and stage {stage} is {self._engines[stage]!r}: "
                "give the replica the --stage-id and MODEL of one stage"
            )
        if message.digest != self._digests[stage]:
            raise Unfit(
                # The head's own digest is not named: a stranger could register with it.
                f"this replica serves another model (digest {message.digest}) than stage {stage} of the head: "
                "start both with the same MODEL and revision"
            )
        if message.uid in self._departed and message.count <= self._departed[message.uid][0]:
            raise RegistrationError("this registration was overtaken by a later message of the same process")

    def _new_replica(self, message: Register, key: tuple[int, int] | None) -> Replica:
        if key is None:
            used = {replica_id for stage_id, replica_id in self._entries if stage_id == message.stage_id}
            key = message.stage_id, next(id for id in count() if id not in used)
        return Replica(
            stage_id=message.stage_id,
            replica_id=key[1],
            uid=message.uid,
            address=message.address,
            state=ReplicaState.STARTING,
            card=message.card,
            host=message.host,
            loras=message.loras,
        )

    def _change(self, entry: _Entry, state: ReplicaState) -> list[Replica]:
        if state is entry.replica.state:
            return []
        entry.replica = replace(entry.replica, state=state)
        return [_current(entry)]

    def _remove(self, key: tuple[int, int], now: float) -> Replica:
        entry = self._entries.pop(key)
        self._departed[entry.replica.uid] = entry.count, now
        return replace(_current(entry), state=ReplicaState.DOWN)


def _current(entry: _Entry) -> Replica:
    return replace(entry.replica, load=entry.load)
