"""The members and their states: pure, with the caller's clock, so that every interleaving can be tested.

Every change is returned as the replicas that changed; a replica that left is returned once, as DOWN.
"""

from dataclasses import dataclass
from itertools import count

from msgspec.structs import replace

from omni_worker.coordinator.messages import Register, Replica, Report, State, Update

FORGET_AFTER = 4.0  # timeouts that a silent replica stays listed as ERROR before its id is free again


class Refusal(Exception):
    """A registration that cannot be taken; the message is for a person."""


@dataclass
class _Member:
    replica: Replica
    heard: float
    said: State = State.STARTING  # the state that it last reported; ERROR is only ever ours


class Registry:
    """The replicas of one head. `stages` are the stage ids that exist; times are seconds on any steady clock."""

    def __init__(self, stages: frozenset[int], digest: str, timeout: float) -> None:
        self._stages = stages
        self._digest = digest
        self._timeout = timeout
        self._members: dict[tuple[int, int], _Member] = {}

    @property
    def replicas(self) -> list[Replica]:
        """All replicas that are listed, by stage and id."""
        return [self._members[key].replica for key in sorted(self._members)]

    def register(self, hello: Register, now: float) -> tuple[Replica, list[Replica]]:
        """Take a replica in as STARTING and give it the lowest free id; the replica, and all that changed.

        The same uid keeps its id. One with the address of another takes its place: two cannot listen there.
        Raises Refusal.
        """
        if hello.stage_id not in self._stages:
            raise Refusal(f"there is no stage {hello.stage_id}; this pipeline has {sorted(self._stages)}")
        if hello.digest != self._digest:
            raise Refusal(
                f"this replica serves another model (digest {hello.digest}) than the head ({self._digest}): "
                "start both with the same MODEL and revision"
            )
        key, changed = None, []
        for member in list(self._members.values()):
            if member.replica.uid == hello.uid and member.replica.stage_id == hello.stage_id:
                key = member.replica.key
            elif member.replica.address == hello.address:
                changed.append(self._remove(member.replica.key))
        if key is None:
            taken = {replica_id for stage_id, replica_id in self._members if stage_id == hello.stage_id}
            key = hello.stage_id, next(id for id in count() if id not in taken)
        replica = Replica(
            stage_id=hello.stage_id,
            replica_id=key[1],
            uid=hello.uid,
            address=hello.address,
            state=State.STARTING,
            card=hello.card,
            host=hello.host,
        )
        self._members[key] = _Member(replica, now)
        return replica, [*changed, replica]

    def report(self, message: Report, now: float) -> list[Replica] | None:
        """A replica's update or heartbeat; what changed, or None where the replica is not known."""
        key = message.stage_id, message.replica_id
        member = self._members.get(key)
        if member is None or member.replica.uid != message.uid:
            return None
        member.heard = now
        if isinstance(message, Update) and message.state is State.DOWN:
            return [self._remove(key)]
        if isinstance(message, Update):
            member.said = message.state
        return self._change(member, replace(member.replica, state=member.said, load=message.load))

    def lost(self, key: tuple[int, int], uid: str) -> list[Replica]:
        """The connection to a replica closed: it gets nothing until it is heard of again."""
        member = self._members.get(key)
        if member is None or member.replica.uid != uid or member.replica.state is State.ERROR:
            return []
        return self._change(member, replace(member.replica, state=State.ERROR))

    def sweep(self, now: float) -> list[Replica]:
        """Mark the silent as ERROR, and forget those that have been silent for long."""
        changed = []
        for key, member in list(self._members.items()):
            silence = now - member.heard
            if silence > self._timeout * FORGET_AFTER:
                changed.append(self._remove(key))
            elif silence > self._timeout and member.replica.state is not State.ERROR:
                changed += self._change(member, replace(member.replica, state=State.ERROR))
        return changed

    def _change(self, member: _Member, replica: Replica) -> list[Replica]:
        if replica == member.replica:
            return []
        member.replica = replica
        return [replica]

    def _remove(self, key: tuple[int, int]) -> Replica:
        return replace(self._members.pop(key).replica, state=State.DOWN)
