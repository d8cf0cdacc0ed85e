"""The members and their states: pure, with the caller's clock, so that every interleaving can be tested.

Every change of a replica is returned; one that left is returned once, as DOWN. New loads, of which there are many, are
collected by `take_loads`.

Messages may come twice, late, and in any order. Each names its process (`uid`) and is numbered by it, so one that is
not newer than the last is void; and a process only ever goes forward, from STARTING over UP and DRAINING to DOWN.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from msgspec.structs import replace

from omni_worker.coordinator.messages import NewLoad, Register, Replica, ReplicaLoad, Report, State

FORGET_AFTER = 4.0  # timeouts that a silent replica stays listed as ERROR before its id is free again
NO_LOAD = ReplicaLoad()
FORWARD = {State.STARTING: 0, State.UP: 1, State.DRAINING: 2, State.DOWN: 3}


class Refusal(Exception):
    """A registration that cannot be taken; the message is for a person."""


@dataclass
class _Member:
    replica: Replica
    heard: float
    count: int  # of its last message
    said: State = State.STARTING  # the state that it last reported; ERROR is only ever ours
    load: ReplicaLoad = NO_LOAD


class Registry:
    """The replicas of one head. Times are seconds on any steady clock.

    digests: the digest of each stage's model, by stage id
    engines: the engine kind of each stage
    timeout: silence after which a replica is in ERROR
    """

    def __init__(self, digests: Mapping[int, str], engines: Mapping[int, str], timeout: float) -> None:
        self._digests = digests
        self._engines = engines
        self._timeout = timeout
        self._members: dict[tuple[int, int], _Member] = {}
        self._left: dict[str, tuple[int, float]] = {}  # uid -> count of its last message, and when it was
        self._new_loads: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        return len(self._members)

    @property
    def replicas(self) -> list[Replica]:
        """All replicas that are listed, by stage and id."""
        return [_now(self._members[key]) for key in sorted(self._members)]

    def register(self, hello: Register, now: float) -> tuple[Replica, list[Replica]]:
        """Take a replica in as STARTING and give it the lowest free id; the replica, and all that changed.

        The same uid keeps its id and its state. One with the address of another takes its place: two cannot listen
        there. Raises Refusal.
        """
        self._check(hello)
        key, changed = None, []
        for member in list(self._members.values()):
            if member.replica.uid == hello.uid and member.replica.stage_id == hello.stage_id:
                if hello.count <= member.count:
                    return _now(member), []
                key = member.replica.key
            elif member.replica.address == hello.address:
                changed.append(self._remove(member.replica.key, now))
        before = self._members.get(key) if key else None
        member = _Member(self._listed(hello, key), now, hello.count)
        if before is not None:
            member.said, member.load = before.said, before.load
            member.replica = replace(member.replica, state=before.said)
        self._members[member.replica.key] = member
        self._left.pop(hello.uid, None)
        if before is None or before.replica != member.replica:
            changed.append(_now(member))
        return _now(member), changed

    def report(self, message: Report, now: float) -> list[Replica] | None:
        """A replica's update or heartbeat; what changed beside its load, or None where the replica is not known."""
        member = self._members.get((message.stage_id, message.replica_id))
        if member is None or member.replica.uid != message.uid:
            return [] if message.state is State.DOWN else None
        if message.count <= member.count:
            return []
        member.heard, member.count = now, message.count
        if message.state is State.DOWN:
            return [self._remove(member.replica.key, now)]
        if message.load.is_news_after(member.load):
            member.load = message.load
            self._new_loads.add(member.replica.key)
        if message.state is not member.said and FORWARD.get(message.state, -1) > FORWARD[member.said]:
            member.said = message.state
        return self._change(member, member.said)

    def take_loads(self) -> list[NewLoad]:
        """The loads that changed since they were last taken."""
        loads = [NewLoad(*key, self._members[key].load) for key in sorted(self._new_loads) if key in self._members]
        self._new_loads.clear()
        return loads

    def silence(self, now: float) -> dict[tuple[int, int], float]:
        """For each replica, seconds since it was heard of."""
        return {key: now - member.heard for key, member in self._members.items()}

    def lost(self, key: tuple[int, int], uid: str) -> list[Replica]:
        """The connection to a replica closed: it gets nothing until it is heard of again."""
        member = self._members.get(key)
        return [] if member is None or member.replica.uid != uid else self._change(member, State.ERROR)

    def sweep(self, now: float) -> list[Replica]:
        """Mark the silent as ERROR, and forget those that have been silent for long."""
        changed = []
        for key, member in list(self._members.items()):
            silence = now - member.heard
            if silence > self._timeout * FORGET_AFTER:
                changed.append(self._remove(key, now))
            elif silence > self._timeout:
                changed += self._change(member, State.ERROR)
        for uid, (_, left) in list(self._left.items()):
            if now - left > self._timeout * FORGET_AFTER:
                del self._left[uid]
        return changed

    def excuse(self, seconds: float) -> None:
        """We ourselves did not listen for so long: it is nobody's silence."""
        for member in self._members.values():
            member.heard += seconds

    def _check(self, hello: Register) -> None:
        stage = hello.stage_id
        if stage not in self._digests:
            raise Refusal(f"there is no stage {stage}; this pipeline has {sorted(self._digests)}")
        if hello.engine != self._engines[stage]:
            raise Refusal(
                f"this replica's engine is {hello.engine!r}, and stage {stage} is {self._engines[stage]!r}: "
                "give the replica the --stage-id and MODEL of one stage"
            )
        if hello.digest != self._digests[stage]:
            raise Refusal(
                f"this replica serves another model (digest {hello.digest}) than stage {stage} of the head "
                f"({self._digests[stage]}): start both with the same MODEL and revision"
            )
        if hello.uid in self._left and hello.count <= self._left[hello.uid][0]:
            raise Refusal("this registration was overtaken by a later message of the same process")

    def _listed(self, hello: Register, key: tuple[int, int] | None) -> Replica:
        if key is None:
            taken = {replica_id for stage_id, replica_id in self._members if stage_id == hello.stage_id}
            key = hello.stage_id, next(id for id in count() if id not in taken)
        return Replica(
            stage_id=hello.stage_id,
            replica_id=key[1],
            uid=hello.uid,
            address=hello.address,
            state=State.STARTING,
            card=hello.card,
            host=hello.host,
        )

    def _change(self, member: _Member, state: State) -> list[Replica]:
        if state is member.replica.state:
            return []
        member.replica = replace(member.replica, state=state)
        return [_now(member)]

    def _remove(self, key: tuple[int, int], now: float) -> Replica:
        member = self._members.pop(key)
        self._left[member.replica.uid] = member.count, now
        return replace(_now(member), state=State.DOWN)


def _now(member: _Member) -> Replica:
    return replace(member.replica, load=member.load)
