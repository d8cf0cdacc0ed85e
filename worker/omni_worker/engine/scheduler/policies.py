"""Which requests run next: one small object a policy, all of them over priority classes.

A policy ranks requests (`rank`, smaller goes first), which decides who is admitted and who gives way, and picks the key
of the next batch among those of the highest class (`pick`). Classes age: whoever waits AGING_SECONDS rises by one, so
that nobody waits for ever, whatever arrives.
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
class Moment:
    """What a policy may know besides the requests: the time in seconds, how many calls of a key go into one batch,
    about how many seconds one more call of a key adds to it, and how many a request's step takes where it runs alone.
    """

    now: float
    limit: Callable[[Hashable], int]
    seconds: Callable[[Hashable], float]
    step_seconds: Callable[[RequestState], float]

    def seconds_left(self, state: RequestState) -> float:
        """About how long the request would still run, alone."""
        return state.steps_left * self.step_seconds(state)


def class_of(state: RequestState, now: float) -> int:
    """The request's priority, and one for every AGING_SECONDS since it came."""
    return state.request.priority + int((now - state.arrived) / AGING_SECONDS)


class Policy(ABC):
    """A policy may remember what it chose before, and nothing else. `preempts`: whether a waiting request may take the
    place of a running one of its own class that ranks lower; one of a lower class always gives way."""

    preempts: ClassVar[bool] = False

    @abstractmethod
    def rank(self, state: RequestState, moment: Moment) -> Rank:
        """The request's place within its class; the smallest goes first."""

    @abstractmethod
    def pick(self, groups: Groups, moment: Moment) -> Hashable:
        """The key to run. `groups` are the requests of the highest class by key, each in order of rank; the key whose
        first request ranks first comes first."""

    def order(self, state: RequestState, moment: Moment) -> Rank:
        """The request's place among all: by class, by rank, by arrival."""
        return (-class_of(state, moment.now), *self.rank(state, moment), state.arrival)

    def choose(self, ready: Sequence[RequestState], moment: Moment) -> list[RequestState]:
        """The next batch: requests of one key, at most its limit. Lower classes may fill it up: that costs little."""
        if len(ready) == 1:
            return list(ready)
        ordered = sorted(((self.order(state, moment), state) for state in ready), key=itemgetter(0))
        highest = ordered[0][0][0]
        groups: dict[Hashable, list[RequestState]] = {}
        for order, state in ordered:
            if order[0] == highest:
                groups.setdefault(state.key, []).append(state)
        key = self.pick(groups, moment)
        batch = [state for _, state in ordered if state.key == key][: moment.limit(key)]
        return batch


class FifoPolicy(Policy):
    """Oldest first, without head-of-line blocking: keys take turns, and within a key the oldest requests run.

    The key is next whose batch holds the request that was served least recently; among those never served, the oldest.
    So a short request never waits for a long one of another shape, and requests whose calls alternate between keys
    (with and without the prompt, one model and another) wait for each other, fall into step and share them all.
    """

    def rank(self, state: RequestState, moment: Moment) -> Rank:
        return (float(state.arrival),)

    def pick(self, groups: Groups, moment: Moment) -> Hashable:
        def least_recent(key: Hashable) -> tuple[int, int]:
            return min((state.served, state.arrival) for state in groups[key][: moment.limit(key)])

        return min(groups, key=least_recent)


class DrrPolicy(Policy):
    """Deficit round robin over flows, each the requests of one tenant and one key: model time is shared evenly.

    A flow's turn gives it a quantum, the cost of the dearest batch; it runs while its deficit covers its own. So a
    tenant with costly requests gets fewer turns, not more time. (Shreedhar and Varghese, SIGCOMM 1995.)
    """

    def __init__(self) -> None:
        self._ring: deque[tuple[str, Hashable]] = deque()
        self._deficit: dict[tuple[str, Hashable], float] = {}

    def rank(self, state: RequestState, moment: Moment) -> Rank:
        return (float(state.arrival),)

    def pick(self, groups: Groups, moment: Moment) -> Hashable:
        costs: dict[tuple[str, Hashable], float] = {}
        for key, members in groups.items():
            for state in members:
                flow = state.request.tenant, key
                costs[flow] = min(costs.get(flow, 0.0) + moment.seconds(key), moment.limit(key) * moment.seconds(key))
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
    """Shortest remaining processing time first, which gives the least mean latency.

    Every second of waiting counts as AGING seconds less to do, so that long requests have their turn too. All gain at
    the same rate, so that to compare them it is enough to add AGING times their arrival.
    """

    preempts = True
    AGING: ClassVar[float] = 0.1

    def rank(self, state: RequestState, moment: Moment) -> Rank:
        return (moment.seconds_left(state) + self.AGING * state.arrived,)

    def pick(self, groups: Groups, moment: Moment) -> Hashable:
        return next(iter(groups))


class EdfPolicy(Policy):
    """Earliest deadline first, among those that can still be met; a deadline that is lost drags no other one down.

    Requests without a deadline, and those that cannot meet theirs any more, run in order of arrival when no other can
    use the time; they rise by their class's aging.
    """

    preempts = True

    def rank(self, state: RequestState, moment: Moment) -> Rank:
        deadline = state.request.deadline
        if deadline is None or moment.now + moment.seconds_left(state) > deadline:
            return (1.0, float(state.arrival))
        return (0.0, deadline)

    def pick(self, groups: Groups, moment: Moment) -> Hashable:
        return next(iter(groups))


POLICIES: dict[str, type[Policy]] = {"fifo": FifoPolicy, "drr": DrrPolicy, "srpt": SrptPolicy, "edf": EdfPolicy}
