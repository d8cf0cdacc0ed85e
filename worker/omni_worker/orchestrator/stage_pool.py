"""The replicas of one stage: keeps a connection to each, and chooses one for a request.

Only a replica that is UP, and whose connection stands, gets a request. How many it holds is this head's own count,
which is exact; a report, which may be from before the last burst, only counts among equals, and only what others sent.

A request that was running on replicas when they crashed may be what crashes them. Of such, one at a time runs on a
replica, and on the last one that is up only after a while: so the culprit crashes alone, and the others are cleared.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field

from omni_worker.config.records import Stage
from omni_worker.coordinator.messages import Replica, State
from omni_worker.errors import RequestError
from omni_worker.orchestrator.balancers import Balancer, ReplicaKey
from omni_worker.replica.client import ReplicaClient
from omni_worker.transport.keys import CurveKeys

log = logging.getLogger(__name__)
DISPATCH_SECONDS = 10.0
DISPATCH_AGAIN_SECONDS = 60.0  # for a request that was taken before: long enough to load a model again
COMPANY_SECONDS = 20.0  # how long a suspect waits for a second replica to be up
MOST_BUSY = 10  # replicas that may turn a request away before the stage does
MOST_BITS = 15
CRASHES_OF_SUSPECTS = 2  # replicas that crashed under a request before it is suspected of it

OnLost = Callable[[tuple[int, int], str], None]
Connect = Callable[[str, Callable[[bool], None], CurveKeys | None], ReplicaClient]


@dataclass(eq=False)
class Member:
    """A replica and the connection to it.

    in_flight: requests of this head that were sent there, or are about to be
    others: requests that it reported and that are not this head's
    is_listed: whether the pool has it among those that are up
    suspect: the request that runs there, of those that are suspected
    blamed: the suspect of when the connection last closed
    """

    replica: Replica
    client: ReplicaClient
    is_connected: bool = True
    in_flight: int = 0
    others: int = 0
    is_listed: bool = False
    suspect: str | None = None
    blamed: str | None = None
    _most: int = 0  # requests of this head at one time since the last report

    @property
    def name(self) -> str:
        """How people call it, within its stage."""
        return str(self.replica.replica_id)

    @property
    def is_up(self) -> bool:
        """Whether it may get requests."""
        return self.replica.state is State.UP and self.is_connected

    @property
    def load(self) -> int:
        """What it is ranked by: this head's own requests, and among equals the others, roughly.

        They are not added up. Every head that spreads its own evenly makes an even whole; one that made up for what
        others sent a second ago would do so together with all the rest of them.
        """
        return self.in_flight * (MOST_BITS + 1) + min(MOST_BITS, self.others.bit_length())

    def take(self) -> None:
        """One more of this head's requests is to go there."""
        self.in_flight += 1
        self._most = max(self._most, self.in_flight)

    def hear(self, replica: Replica) -> None:
        """Take a report. Of what it counted, at most as many were this head's as there were since the last one."""
        if replica.load != self.replica.load:
            held = replica.load.queue_length + replica.load.running
            self.others, self._most = max(0, held - self._most), self.in_flight
        self.replica = replica


@dataclass
class Tried:
    """What became of a request's earlier runs at a stage: where it is not to go again.

    lost: replicas that went away under it; it goes back to one only where there is no other
    refused: those that take nothing new, for as long as they live
    busy: those that had no room for it, with what they said
    losses: how often it lost one
    crashes: how often one crashed, and it may have been what crashed it
    """

    id: str = ""
    lost: set[Member] = field(default_factory=set)
    refused: set[Member] = field(default_factory=set)
    busy: dict[Member, RequestError] = field(default_factory=dict)
    losses: int = 0
    crashes: int = 0

    @property
    def was_taken(self) -> bool:
        """Whether a replica may have taken it already: from then on it is not turned away."""
        return bool(self.lost or self.refused)

    @property
    def is_suspect(self) -> bool:
        """Whether it is to be kept apart from others like it."""
        return self.crashes >= CRASHES_OF_SUSPECTS


class StagePool:
    """`on_lost` is told the key and uid of a replica whose connection closed; `connect` makes the connections.

    What it counts is of this head's life: replicas that began to drain, and the tokens and pictures that came of them.
    """

    def __init__(
        self,
        stage: Stage,
        balancer: Balancer,
        on_lost: OnLost,
        keys: CurveKeys | None = None,
        connect: Connect = ReplicaClient,
    ) -> None:
        self.stage = stage
        self.drains = self.tokens = self.images = 0
        self._balancer = balancer
        self._on_lost = on_lost
        self._keys = keys
        self._connect = connect
        self._members: dict[ReplicaKey, Member] = {}
        self._up: list[Member] | None = None
        self._up_count = 0
        self._draining: set[Member] = set()
        self._homes: dict[str, Member] = {}
        self._changed = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def members(self) -> list[Member]:
        """All known replicas, by id."""
        return [self._members[key] for key in sorted(self._members)]

    @property
    def up(self) -> list[Member]:
        """The replicas that may get requests."""
        if self._up is None:
            self._up = [member for member in self.members if member.is_up]
        return self._up

    @property
    def is_ready(self) -> bool:
        """Whether a request finds a replica, or wakes one."""
        return bool(self.up) or self.stage.wake_seconds is not None

    def update(self, replica: Replica) -> None:
        """Take a change of the membership. What runs on a replica that is gone or silent is given up there."""
        member = self._members.get(replica.key)
        if member and (member.replica.uid, member.replica.address) != (replica.uid, replica.address):
            self._drop(member, "the replica was replaced")
            member = None
        if replica.state is State.DOWN:
            if member:
                self._drop(member, "the replica left")
            return
        if member is None:
            member = self._join(replica)
        before, now = member.replica.state, replica.state
        member.hear(replica)
        if now is State.ERROR and before is not State.ERROR:
            member.client.lose("the replica fell silent", "stalled")
        if now is State.DRAINING and member not in self._draining:
            self._draining.add(member)
            self.drains += 1
        self._refresh(member)

    async def pick(self, tried: Tried | None = None) -> Member:
        """A replica for a request, to be given back by `release`; waits for one where none is up.

        A request that was at this stage before goes to the replica that it had. Raises RequestError of kind `busy`
        where no replica that is up has room, and `unavailable` where none was up for too long.
        """
        tried = tried or Tried()
        member = self._choose(tried)
        if member is None:
            member = await self._wait(tried)
        member.take()
        self._refresh(member)
        if tried.id:
            self._homes[tried.id] = member
        if tried.is_suspect:
            member.suspect = tried.id
        return member

    def release(self, member: Member, tried: Tried | None = None) -> None:
        """The request has ended there, however it did."""
        member.in_flight -= 1
        self._refresh(member)
        if tried is not None and member.suspect is not None and member.suspect == tried.id:
            member.suspect = None
            self._tell()

    def forget(self, id: str) -> None:
        """The request will not come again."""
        self._homes.pop(id, None)

    async def close(self) -> None:
        """Disconnect from every replica."""
        for member in list(self._members.values()):
            self._drop(member, "the head is closing")
        await asyncio.gather(*self._background)

    # ---- choosing

    def _choose(self, tried: Tried) -> Member | None:
        """One that may get the request now. Raises RequestError where all that could have no room."""
        home = self._homes.get(tried.id)
        if home and home.is_up and home not in tried.lost and home not in tried.refused and home not in tried.busy:
            return home
        if tried.is_suspect:
            return self._choose_apart(tried)
        if not (tried.lost or tried.refused or tried.busy):  # as nearly always: this has to be quick
            key = self._balancer.choose()
            return self._members[key] if key else None
        never = self._keys_of([*tried.refused, *tried.busy])
        key = self._balancer.choose(never | self._keys_of(tried.lost)) or self._balancer.choose(never)
        busy = [answer for member, answer in tried.busy.items() if member.is_up]
        if busy and (key is None or len(busy) >= MOST_BUSY):
            raise _all_busy(self.stage, busy)
        return self._members[key] if key else None

    def _choose_apart(self, tried: Tried, is_alone: bool = False) -> Member | None:
        """For a suspect: the least loaded where no other one runs; the only one that is up where it `is_alone`."""
        free = [one for one in self.up if one.suspect is None and one not in tried.refused]
        if len(self.up) < 2 and not is_alone:
            return None
        return min(free, key=lambda one: (one in tried.lost, one.load), default=None)

    async def _wait(self, tried: Tried) -> Member:
        """The same, as soon as there is one."""
        patience = DISPATCH_AGAIN_SECONDS if tried.was_taken else DISPATCH_SECONDS
        patience = max(patience, self.stage.wake_seconds or 0.0)
        began = seen = time.monotonic()
        while True:
            pause = patience - (time.monotonic() - seen)
            if self.up and tried.is_suspect:  # its turn will come: those before it end some time
                pause = COMPANY_SECONDS
            elif pause <= 0:
                raise RequestError("unavailable", f"no replica of stage {self.stage.name!r} is up")
            changed = self._changed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), pause)
            member = self._choose(tried)
            if member is None and tried.is_suspect:
                if self.up:
                    seen = time.monotonic()
                member = self._choose_apart(tried, is_alone=time.monotonic() - began >= COMPANY_SECONDS)
            if member is not None:
                return member

    def _keys_of(self, members: Sequence[Member] | set[Member]) -> set[ReplicaKey]:
        """The keys of those that are still there: another process may have the key of one that is not."""
        return {one.replica.key for one in members if self._members.get(one.replica.key) is one}

    # ---- membership

    def _join(self, replica: Replica) -> Member:
        client = self._connect(replica.address, lambda is_open: self._connection(member, is_open), self._keys)
        member = self._members[replica.key] = Member(replica, client)
        member.others = replica.load.queue_length + replica.load.running
        return member

    def _connection(self, member: Member, is_open: bool) -> None:
        """It closed, or stands again."""
        member.is_connected = is_open
        if not is_open:
            member.blamed = member.suspect
            self._on_lost(member.replica.key, member.replica.uid)
        self._refresh(member)

    def _drop(self, member: Member, reason: str) -> None:
        del self._members[member.replica.key]
        self._homes = {id: home for id, home in self._homes.items() if home is not member}
        self._draining.discard(member)
        self._refresh(member)
        member.client.lose(reason)
        self._in_background(member.client.close())

    def _refresh(self, member: Member) -> None:
        """Tell the balancer how it is with this replica, and everybody where that makes a difference to them."""
        is_up = member.is_up and self._members.get(member.replica.key) is member
        if is_up:
            self._balancer.put(member.replica.key, member.load)
        if is_up is not member.is_listed:
            member.is_listed = is_up
            if not is_up:
                self._balancer.remove(member.replica.key)
            self._up_count += 1 if is_up else -1
            self._up = None
            self._hand_back()
            self._tell()

    def _hand_back(self) -> None:
        """Have those that drain give up what only waits there, where another is up to run it."""
        if self._up_count:
            for member in self._draining:
                self._in_background(member.client.hand_back())

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _all_busy(stage: Stage, answers: Sequence[RequestError]) -> RequestError:
    """What a request is told that every replica turned away: to come again when the first of them has room."""
    waits = [answer.retry_after for answer in answers if answer.retry_after is not None]
    return RequestError(
        "busy",
        f"all replicas of stage {stage.name!r} have as many requests as they may hold; try again later",
        retry_after=min(waits, default=None),
    )
