"""The replicas of one stage: keeps a connection to each, and chooses one for a request."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass

from omni_worker.config import Stage
from omni_worker.coordinator.messages import Replica, State
from omni_worker.errors import RequestError
from omni_worker.keys import Keys
from omni_worker.orchestrator.balancers import Balancer, Candidate
from omni_worker.replica.client import ReplicaClient

log = logging.getLogger(__name__)
DISPATCH_SECONDS = 10.0

OnLost = Callable[[tuple[int, int], str], None]


@dataclass
class Member:
    """A replica and the connection to it."""

    replica: Replica
    client: ReplicaClient

    @property
    def name(self) -> str:
        """How people call it, within its stage."""
        return str(self.replica.replica_id)


class StagePool:
    """`on_lost` is told the key and uid of a replica whose connection closed."""

    def __init__(self, stage: Stage, balancer: Balancer, on_lost: OnLost, keys: Keys | None = None) -> None:
        self.stage = stage
        self._balancer = balancer
        self._on_lost = on_lost
        self._keys = keys
        self._members: dict[tuple[int, int], Member] = {}
        self._changed = asyncio.Condition()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def members(self) -> list[Member]:
        """All known replicas, by id."""
        return [self._members[key] for key in sorted(self._members)]

    @property
    def up(self) -> list[Member]:
        """The replicas that may get requests."""
        return [member for member in self.members if member.replica.state is State.UP]

    def update(self, replica: Replica) -> None:
        """Take a change of the membership. What runs on a replica that is gone or silent is given up there."""
        known = self._members.get(replica.key)
        if known and (known.replica.uid, known.replica.address) != (replica.uid, replica.address):
            self._drop(replica.key, "the replica was replaced")
            known = None
        if replica.state is State.DOWN:
            self._drop(replica.key, "the replica left")
        elif known:
            if replica.state is State.ERROR and known.replica.state is not State.ERROR:
                known.client.lose("the replica fell silent")
            known.replica = replica
        else:
            client = ReplicaClient(replica.address, lambda: self._on_lost(replica.key, replica.uid), self._keys)
            self._members[replica.key] = Member(replica, client)
        self._in_background(self._notify())

    async def pick(self, avoid: frozenset[str] = frozenset(), busy: Mapping[str, RequestError] | None = None) -> Member:
        """A replica that is up, waiting for one if there is none; one whose uid is in `avoid` only if all are.

        `busy` are the uids of those that turned the request away, with what they said. Raises RequestError of kind
        `busy` where no other is up, and `unavailable` after DISPATCH_SECONDS.
        """
        try:
            async with asyncio.timeout(DISPATCH_SECONDS), self._changed:
                while not (up := self.up):
                    await self._changed.wait()
        except TimeoutError:
            raise RequestError("unavailable", f"no replica of stage {self.stage.name!r} is up") from None
        busy = busy or {}
        free = [member for member in up if member.replica.uid not in busy]
        if not free:
            raise _all_busy(self.stage, [busy[member.replica.uid] for member in up])
        members = {member.replica.key: member for member in free if member.replica.uid not in avoid} or {
            member.replica.key: member for member in free
        }
        chosen = self._balancer.choose(
            [
                Candidate(key, member.client.in_flight, member.replica.load.queue_length + member.replica.load.running)
                for key, member in members.items()
            ]
        )
        return members[chosen.key]

    async def close(self) -> None:
        """Disconnect from every replica."""
        for key in list(self._members):
            self._drop(key, "the head is closing")
        await asyncio.gather(*self._closing)

    def _drop(self, key: tuple[int, int], reason: str) -> None:
        member = self._members.pop(key, None)
        if member is not None:
            member.client.lose(reason)
            self._in_background(member.client.close())

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _all_busy(stage: Stage, answers: Sequence[RequestError]) -> RequestError:
    """What a request is told that every replica turned away: to come again when the first of them has room."""
    waits = [answer.retry_after for answer in answers if answer.retry_after is not None]
    return RequestError(
        "busy",
        f"all replicas of stage {stage.name!r} have as many requests as they may hold; try again later",
        retry_after=min(waits, default=None),
    )
