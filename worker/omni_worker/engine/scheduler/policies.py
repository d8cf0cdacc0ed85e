"""Scheduling policies: which request is admitted next, and which requests form the next batch.

A policy ranks requests (`rank`, the smallest goes first) within priority classes. The order decides which request is
admitted and which one is preempted. `pick_key` selects the key of the next batch among the requests of the highest
class. A request rises by one class for every AGING_SECONDS since its arrival, so that none starves.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import ClassVar

from omni_worker.engine.scheduler.interface import RequestState

AGING_SECONDS = 30.0
Rank = tuple[float, ...]
Groups = Mapping[Hashable, Sequence[RequestState]]


@dataclass(frozen=True)
class PolicyContext:
    """What a policy may use besides the requests.

    now: seconds on the scheduler's clock
    limit: how many calls of a key go into one batch
    seconds_per_call: how many seconds one more call of a key adds to a batch
    step_seconds: how many seconds one step of a request takes if it runs alone
    """

    now: float
    limit: Callable[[Hashable], int]
    seconds_per_call: Callable[[Hashable], float]
    step_seconds: Callable[[RequestState], float]

    def seconds_left(self, state: RequestState) -> float:
        """Predicted seconds until the request ends if it runs alone."""
        return state.steps_left * self.step_seconds(state)


def priority_class(state: RequestState, now: float) -> int:
    """The request's priority, plus one for every AGING_SECONDS since its arrival."""
    return state.request.priority + int((now - state.arrival_time) / AGING_SECONDS)


class Policy(ABC):
    """Ranks requests and selects batches. A policy may remember its own choices, and nothing else.

    preempts: whether a waiting request may preempt a running one of its own class that ranks after it. A waiting
        request of a higher class may always preempt one of a lower class.
    """

    preempts: ClassVar[bool] = False

    @abstractmethod
    def rank(self, state: RequestState, context: PolicyContext) -> Rank:
        """The request's rank within its class; the smallest goes first."""

    @abstractmethod
    def pick_key(self, groups: Groups, context: PolicyContext) -> Hashable:
        """The key to run.

        `groups` has the requests of the highest class by key, each group in order of rank. The keys are in the order of
        their first requests.
        """

    def order(self, state: RequestState, context: PolicyContext) -> Rank:
        """The request's order among all requests: by class, then by rank, then by arrival."""
        return (-priority_class(state, context.now), *self.rank(state, context), state.arrival)

    def choose_batch(self, ready: Sequence[RequestState], context: PolicyContext) -> list[RequestState]:
        """The next batch: requests of one key, at most its limit.

        Requests of lower classes fill free places in it, which costs little.
        """
        if len(ready) == 1:
            return list(ready)
        ordered = sorted(((self.order(state, context), state) for state in ready), key=itemgetter(0))
        highest = ordered[0][0][0]
        groups: dict[Hashable, list[RequestState]] = {}
        for order, state in ordered:
            if order[0] == highest:
                groups.setdefault(state.key, []).append(state)
        key = self.pick_key(groups, context)
        return [state for _, state in ordered if state.key == key][: context.limit(key)]


class FifoPolicy(Policy):
    """Oldest first, without head-of-line blocking: keys take turns, and within a key the oldest requests run.

    The next key is the one whose batch contains the request that ran least recently, or the oldest request that never
    ran. So a short request never waits for a long one of another shape. Requests whose calls alternate between keys
    (with and without the prompt, one model and another) wait for each other, and then share all their batches.
    """

    def rank(self, state: RequestState, context: PolicyContext) -> Rank:
        return (float(state.arrival),)

    def pick_key(self, groups: Groups, context: PolicyContext) -> Hashable:
        def least_recent(key: Hashable) -> tuple[int, int]:
            return min((state.last_batch, state.arrival) for state in groups[key][: context.limit(key)])

        return min(groups, key=least_recent)


class DrrPolicy(Policy):
    """Deficit round robin: flows share the model's time evenly. A flow is the requests of one tenant and one key.

    In its turn, a flow's deficit grows by a quantum, the cost of the most expensive batch. The flow runs while its
    deficit covers the cost of its own batch. So a tenant with expensive requests gets fewer turns instead of more time.
    (Shreedhar and Varghese, SIGCOMM 1995.)
    """

    def __init__(self) -> None:
        self._ring: deque[tuple[str, Hashable]] = deque()
        self._deficit: dict[tuple[str, Hashable], float] = {}

    def rank(self, state: RequestState, context: PolicyContext) -> Rank:
        return (float(state.arrival),)

    def pick_key(self, groups: Groups, context: PolicyContext) -> Hashable:
        costs: dict[tuple[str, Hashable], float] = {}
        for key, members in groups.items():
            for state in members:
                flow = state.request.tenant, key
                seconds = context.seconds_per_call(key)
                costs[flow] = min(costs.get(flow, 0.0) + seconds, context.limit(key) * seconds)
        self._ring = deque(flow for flow in self._ring if flow in costs)
        self._ring.extend(flow for flow in costs if flow not in self._deficit or flow not in self._ring)
        self._deficit = {flow: self._deficit.get(flow, 0.0) for flow in costs}
        quantum = max(costs.values())
        while self._deficit[self._ring[0]] < costs[self._ring[0]]:
            self._deficit[self._ring[0]] += quantum
            if self._deficit[self._ring[0]] < costs[self._ring[0]]:
                self._ring.rotate(-1)
        flow = self._ring[0]
        self._deficit[flow] -= costs[flow]
        if self._deficit[flow] < costs[flow]:
            self._ring.rotate(-1)
        return flow[1]


class SrptPolicy(Policy):
    """Shortest remaining processing time first, which gives the lowest mean latency.

    Each second since arrival counts as AGING seconds less to do, so that long requests run too. All requests gain at
    the same rate, so comparing them only needs AGING times their arrival time.
    """

    preempts = True
    AGING: ClassVar[float] = 0.1

    def rank(self, state: RequestState, context: PolicyContext) -> Rank:
        return (context.seconds_left(state) + self.AGING * state.arrival_time,)

    def pick_key(self, groups: Groups, context: PolicyContext) -> Hashable:
        return next(iter(groups))


class EdfPolicy(Policy):
    """Earliest deadline first, among the requests that can still meet theirs: a missed deadline delays no other one.

    Requests without a deadline, or that cannot meet it any more, come after those, in order of arrival. Aging raises
    their class.
    """

    preempts = True

    def rank(self, state: RequestState, context: PolicyContext) -> Rank:
        deadline = state.request.deadline
        if deadline is None or context.now + context.seconds_left(state) > deadline:
            return (1.0, float(state.arrival))
        return (0.0, deadline)

    def pick_key(self, groups: Groups, context: PolicyContext) -> Hashable:
        return next(iter(groups))


POLICIES: dict[str, type[Policy]] = {"fifo": FifoPolicy, "drr": DrrPolicy, "srpt": SrptPolicy, "edf": EdfPolicy}
