"""The replicas of one stage: keeps a connection to each, and selects one for a request.

Only a replica that is UP and connected gets requests. The pool ranks replicas by its own count of requests, which is
exact. Reports may be from before the last burst, so they only decide between equals. `suspects` decides where requests
may run that were running when replicas crashed. `outliers` decides which replicas fail too often to get requests.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence

from omni_worker.config.records import Stage
from omni_worker.coordinator.messages import Replica, ReplicaState
from omni_worker.errors import RequestError
from omni_worker.orchestrator import suspects
from omni_worker.orchestrator.balancers import Balancer, ReplicaKey
from omni_worker.orchestrator.member import Connection, Member
from omni_worker.orchestrator.run_history import RunHistory
from omni_worker.replica.client import ReplicaClient
from omni_worker.transport.keys import CurveKeys

log = logging.getLogger(__name__)
DISPATCH_SECONDS = 5.0  # how long a new request waits for a replica if none was up lately
RESTART_DISPATCH_SECONDS = 10.0  # the same if one was up in the last RESTART_SECONDS, so that it may be restarting
RESTART_SECONDS = 60.0
REFUSAL_SECONDS = 10.0  # how long a refused replica counts as one that tries to join
RETRY_DISPATCH_SECONDS = 60.0  # the same for a request that was accepted before: long enough to reload a model
LORA_CHECK_SECONDS = 1.0  # how often a request that waits for adapters looks what has become of them
MAX_FAILED_REPLICAS = 3  # on so many replicas a request may fail before it fails for its client
MAX_BUSY_REPLICAS = 10  # after so many full queues the stage itself counts as full

OnDisconnect = Callable[[ReplicaKey, str], None]
Connect = Callable[[str, Callable[[bool], None], CurveKeys | None], Connection]


class StagePool:
    """The replicas of one stage, and which of them gets a request.

    `on_disconnect` is called with the key and uid of a replica whose connection closed. `connect` opens connections.

    drains, ejections, tokens, images: counts since the head started: replicas that began to drain, replicas that were
        ejected because their runs failed, and what the stage generated
    problem: what is wrong with a stage that is a server outside the pipeline
    """

    def __init__(
        self,
        stage: Stage,
        balancer: Balancer,
        on_disconnect: OnDisconnect,
        keys: CurveKeys | None = None,
        connect: Connect = ReplicaClient,
    ) -> None:
        self.stage = stage
        self.drains = self.ejections = self.tokens = self.images = 0
        self.waiting = 0  # requests that wait for a replica now
        self.problem: str | None = None
        self.refused_at = float("-inf")  # when the head last refused a replica that does not fit the stage
        self._balancer = balancer
        self._on_disconnect = on_disconnect
        self._keys = keys
        self._connect = connect
        self._members: dict[ReplicaKey, Member] = {}
        self._up: list[Member] | None = None
        self._up_count = 0
        self._last_up_at = float("-inf")  # when a replica was last up, if none is up now
        self._draining: set[Member] = set()
        self._last_member: dict[str, Member] = {}  # by request id: where the request ran last
        self._changed = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def members(self) -> list[Member]:
        """All replicas of the stage, by id."""
        return [self._members[key] for key in sorted(self._members)]

    @property
    def up(self) -> list[Member]:
        """The replicas that may get requests."""
        if self._up is None:
            self._up = [member for member in self.members if member.is_up]
        return self._up

    @property
    def is_ready(self) -> bool:
        """Whether a replica is up, or a request would wake one."""
        return bool(self.up) or self.stage.wake_seconds is not None

    @property
    def refuses_replicas(self) -> bool:
        """Whether replicas that do not fit the stage try to join. They try every second."""
        return time.monotonic() - self.refused_at < REFUSAL_SECONDS

    def update(self, replica: Replica) -> None:
        """Take a change of the membership. Requests on a replica that left or fell silent raise ReplicaLost."""
        member = self._members.get(replica.key)
        if member and (member.replica.uid, member.replica.address) != (replica.uid, replica.address):
            self._remove(member, "the replica was replaced")
            member = None
        if replica.state is ReplicaState.DOWN:
            if member:
                self._remove(member, "the replica left")
            return
        if member is None:
            member = self._add(replica)
        before, now = member.replica.state, replica.state
        has_other_loras = member.replica.loras != replica.loras
        member.update(replica)
        if now is ReplicaState.ERROR and before is not ReplicaState.ERROR:
            member.client.lose("the replica fell silent", "stalled")
        if now is ReplicaState.DRAINING and member not in self._draining:
            self._draining.add(member)
            self.drains += 1
        self._refresh(member)
        if has_other_loras:
            self._notify_waiting()

    async def pick(self, history: RunHistory | None = None) -> Member:
        """Select a replica for a request, and wait for one if none is up. The caller must `release` it.

        A request that was at this stage before goes to the replica where it ran last, if that is still possible.

        Raises RequestError of kind `busy` if no replica that is up has room, of kind `unavailable` if none was up for
        too long, and the error of its last run if it failed on every replica that is up.
        """
        history = history or RunHistory()
        member = self._choose(history)
        if member is None:
            self.waiting += 1
            try:
                member = await self._wait(history)
            finally:
                self.waiting -= 1
        member.add_request()
        self._refresh(member)
        if history.id:
            self._last_member[history.id] = member
        if suspects.is_suspect(history):
            member.suspect = history.id
        return member

    def release(self, member: Member, history: RunHistory | None = None) -> None:
        """End a request's run on a replica, with or without success."""
        member.in_flight -= 1
        self._refresh(member)
        if history is not None and member.suspect is not None and member.suspect == history.id:
            member.suspect = None
            self._notify_waiting()

    def hold_failed(self, member: Member, history: RunHistory, error: RequestError) -> None:
        """Record that a request failed on `member`.

        The request continues to count there until it has ended (`settle`), so that a replica does not attract more
        requests by failing fast.
        """
        history.failed[member] = error
        history.busy.clear()  # the request was accepted once, so no replica may turn it away from now on
        member.add_request()

    def may_run_elsewhere(self, history: RunHistory) -> bool:
        """Whether a request that failed may run again: not too often, and not if all replicas that are up are out."""
        is_left = not self.up or not history.excluded.issuperset(self.up)
        return len(history.failed) < MAX_FAILED_REPLICAS and is_left

    def settle(self, history: RunHistory) -> None:
        """The request has ended at this stage: it counts no longer on the replicas where it failed."""
        for member in history.failed:
            self.release(member)

    def record_success(self, member: Member, history: RunHistory) -> None:
        """Record that a request succeeded on `member`, after it had failed on the replicas in its history.

        So the failures were these replicas' own. Ejects those that fail more often than their neighbours.
        """
        member.record.add(True)
        for failed in history.failed:
            failed.record.add(False)
            others = [other.record for other in self.up if other is not failed]
            if self._members.get(failed.replica.key) is failed and failed.record.stands_out(others):
                self._eject(failed)

    def forget(self, id: str) -> None:
        """Forget where a request ran, because it has ended."""
        self._last_member.pop(id, None)

    async def close(self) -> None:
        """Disconnect from every replica."""
        for member in list(self._members.values()):
            self._remove(member, "the head is closing")
        await asyncio.gather(*self._background)

    # ---- selection

    def _choose(self, history: RunHistory) -> Member | None:
        """A replica that may get the request now, or None. Raises RequestError if too many have no room."""
        if history.failed and not self.may_run_elsewhere(history):
            raise next(reversed(history.failed.values()))
        last = self._last_member.get(history.id)
        if last and last.is_up and history.allows(last) and not last.record.is_ejected:
            return last
        if suspects.is_suspect(history):
            return suspects.choose_for_suspect(self.up, history)
        if history.is_empty:  # almost always, so it must be fast
            key = self._balancer.choose() or self._choose_ejected(())
            return self._members[key] if key else None
        lacking = [one for one in self.up if not history.has_adapters(one)]
        never = self._current_keys([*history.excluded, *history.busy, *lacking])
        key = self._balancer.choose(never | self._current_keys(history.lost)) or self._balancer.choose(never)
        key = key or self._choose_ejected(never)
        busy = [answer for member, answer in history.busy.items() if member.is_up]
        if busy and (key is None or len(busy) >= MAX_BUSY_REPLICAS):
            raise _stage_busy(self.stage, busy)
        return self._members[key] if key else None

    def _choose_ejected(self, never: Collection[ReplicaKey]) -> ReplicaKey | None:
        """The least loaded of the ejected replicas, which get requests that no other replica can take."""
        ejected = [one for one in self.up if one.record.is_ejected and one.replica.key not in never]
        return min(ejected, key=lambda one: one.load).replica.key if ejected else None

    async def _wait(self, history: RunHistory) -> Member:
        """Wait until a replica may get the request. Raises RequestError as `pick` does."""
        is_suspect = suspects.is_suspect(history)
        began = last_up = time.monotonic()
        patience = self._patience(history, began)
        while True:
            pause = patience - (time.monotonic() - last_up)
            if self.up and is_suspect:  # it waits as long as it takes: the suspects before it will end
                pause = suspects.SECOND_REPLICA_SECONDS
            elif self.up and history.adapters:
                problem = history.why_no_adapters([one for one in self.up if one not in history.excluded])
                if problem is None:  # it waits as long as they are being loaded
                    last_up = time.monotonic()
                elif pause <= 0:
                    raise problem
                pause = LORA_CHECK_SECONDS
            elif pause <= 0:
                raise RequestError("unavailable", self.problem or f"no replica of stage {self.stage.name!r} is up")
            changed = self._changed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), pause)
            member = self._choose(history)
            if member is None and is_suspect:
                if self.up:
                    last_up = time.monotonic()
                may_use_last = time.monotonic() - began >= suspects.SECOND_REPLICA_SECONDS
                member = suspects.choose_for_suspect(self.up, history, may_use_last)
            if member is not None:
                return member

    def _patience(self, history: RunHistory, now: float) -> float:
        """How many seconds a request waits while no replica is up."""
        if history.was_accepted:
            seconds = RETRY_DISPATCH_SECONDS
        elif self._up_count or now - self._last_up_at < RESTART_SECONDS:
            seconds = RESTART_DISPATCH_SECONDS
        else:
            seconds = DISPATCH_SECONDS
        return max(seconds, self.stage.wake_seconds or 0.0)

    def _current_keys(self, members: Iterable[Member]) -> set[ReplicaKey]:
        """The keys of the members that are still in the pool. A new process may have the key of an earlier one."""
        return {member.replica.key for member in members if self._members.get(member.replica.key) is member}

    # ---- membership

    def _add(self, replica: Replica) -> Member:
        client = self._connect(replica.address, lambda is_open: self._on_connection(member, is_open), self._keys)
        member = self._members[replica.key] = Member(replica, client)
        member.other_requests = replica.load.queue_length + replica.load.running
        return member

    def _on_connection(self, member: Member, is_open: bool) -> None:
        """The connection was established or closed."""
        member.is_connected = is_open
        if not is_open:
            member.suspect_at_disconnect = member.suspect
            self._on_disconnect(member.replica.key, member.replica.uid)
        self._refresh(member)

    def _remove(self, member: Member, reason: str) -> None:
        del self._members[member.replica.key]
        self._last_member = {id: last for id, last in self._last_member.items() if last is not member}
        self._draining.discard(member)
        self._refresh(member)
        member.client.lose(reason)
        self._in_background(member.client.close())

    def _refresh(self, member: Member) -> None:
        """Update the balancer after a change. If a replica came up or went down, also update everything that waits."""
        is_up = member.is_up and self._members.get(member.replica.key) is member
        if is_up and not member.record.is_ejected:
            self._balancer.put(member.replica.key, member.load)
        elif self._members.get(member.replica.key, member) is member:  # its key may be a new process's already
            self._balancer.remove(member.replica.key)
        if is_up is not member.is_listed:
            member.is_listed = is_up
            self._up_count += 1 if is_up else -1
            self._last_up_at = time.monotonic()
            self._up = None
            self._hand_back_waiting()
            self._notify_waiting()

    def _eject(self, member: Member) -> None:
        """Let the replica get no requests for a while."""
        seconds = member.record.eject(time.monotonic())
        self.ejections += 1
        log.warning(
            "replica %s-%s is ejected for %g s: requests failed there that other replicas could serve",
            self.stage.name,
            member.name,
            seconds,
        )
        self._refresh(member)
        asyncio.get_running_loop().call_later(seconds, self._readmit, member)

    def _readmit(self, member: Member) -> None:
        member.record.readmit()
        self._refresh(member)
        self._notify_waiting()

    def _hand_back_waiting(self) -> None:
        """If a replica is up, ask those that drain to hand back the requests that have not begun."""
        if self._up_count:
            for member in self._draining:
                self._in_background(member.client.hand_back())

    def _notify_waiting(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _stage_busy(stage: Stage, answers: Sequence[RequestError]) -> RequestError:
    """The error for a request that every replica turned away. It may retry when the first of them has room."""
    waits = [answer.retry_after for answer in answers if answer.retry_after is not None]
    return RequestError(
        "busy",
        f"all replicas of stage {stage.name!r} have as many requests as they may hold; try again later",
        retry_after=min(waits, default=None),
    )
