"""Which of the replicas that are up gets a request: one small object a policy."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from omni_worker.errors import UsageError


@dataclass(frozen=True)
class Candidate:
    """A replica that could take the request. `in_flight` is this head's own count; `reported` may be stale."""

    key: tuple[int, int]
    in_flight: int
    reported: int

    @property
    def load(self) -> tuple[int, int]:
        """The own count first, which is exact; a report, which may be from before the last burst, only breaks ties."""
        return self.in_flight, self.reported


class Balancer(ABC):
    """Chooses among candidates, of which there is at least one."""

    @abstractmethod
    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        """The one that gets the request."""


class RandomBalancer(Balancer):
    """Any, with equal chances."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._random = source or random.Random()

    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        return self._random.choice(candidates)


class RoundRobinBalancer(Balancer):
    """The one that has waited longest for its turn; newcomers first."""

    def __init__(self) -> None:
        self._turns = count(1)
        self._last: dict[tuple[int, int], int] = {}

    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        chosen = min(candidates, key=lambda candidate: (self._last.get(candidate.key, 0), candidate.key))
        known = {candidate.key for candidate in candidates}
        self._last = {key: turn for key, turn in self._last.items() if key in known}
        self._last[chosen.key] = next(self._turns)
        return chosen


class LeastQueueLengthBalancer(Balancer):
    """The one that holds the fewest requests; among equals, the one whose turn it is."""

    def __init__(self) -> None:
        self._ties = RoundRobinBalancer()

    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        least = min(candidate.load for candidate in candidates)
        return self._ties.choose([candidate for candidate in candidates if candidate.load == least])


class PowerOfTwoBalancer(Balancer):
    """The less loaded of two that are drawn: near the least queue, without every head choosing the same replica."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._random = source or random.Random()

    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        drawn = self._random.sample(candidates, min(2, len(candidates)))
        return min(drawn, key=lambda candidate: candidate.load)


BALANCERS: dict[str, type[Balancer]] = {
    "random": RandomBalancer,
    "round-robin": RoundRobinBalancer,
    "least-queue-length": LeastQueueLengthBalancer,
    "power-of-two": PowerOfTwoBalancer,
}


def make_balancer(policy: str) -> Balancer:
    """The balancer of a policy's name. Raises UsageError for another name."""
    if policy not in BALANCERS:
        raise UsageError(f"--omni-lb-policy {policy}: choose one of {', '.join(BALANCERS)}")
    return BALANCERS[policy]()
