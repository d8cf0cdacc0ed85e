"""Which of the replicas that are up gets a request: one small object a policy.

A balancer is told of every change, so that to choose takes about as long among a thousand replicas as among two.
"""

import random
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection

from omni_worker.errors import UsageError

ReplicaKey = tuple[int, int]

DRAWS = 8  # tries to draw a replica that is allowed, before all that are allowed are listed


class Balancer(ABC):
    """Keeps the replicas that are up, by key, with how many requests each holds."""

    @abstractmethod
    def put(self, key: ReplicaKey, load: int) -> None:
        """Take a replica in, or its new load."""

    @abstractmethod
    def remove(self, key: ReplicaKey) -> None:
        """Forget a replica; one that is not known is passed over."""

    @abstractmethod
    def choose(self, without: Collection[ReplicaKey] = ()) -> ReplicaKey | None:
        """The one that gets the next request; None where none is left but those in `without`."""


class _Row:
    """Keys in no order, each of them put in, taken out and drawn in constant time."""

    def __init__(self, source: random.Random | None) -> None:
        self._random = source or random.Random()
        self._keys: list[ReplicaKey] = []
        self._places: dict[ReplicaKey, int] = {}

    def put(self, key: ReplicaKey) -> None:
        if key not in self._places:
            self._places[key] = len(self._keys)
            self._keys.append(key)

    def remove(self, key: ReplicaKey) -> None:
        place = self._places.pop(key, None)
        if place is not None:
            last = self._keys.pop()
            if last != key:
                self._keys[place], self._places[last] = last, place

    def draw(self, without: Collection[ReplicaKey]) -> ReplicaKey | None:
        for _ in range(DRAWS if self._keys else 0):
            key = self._keys[int(self._random.random() * len(self._keys))]
            if key not in without:
                return key
        allowed = [key for key in self._keys if key not in without]
        return self._random.choice(allowed) if allowed else None


class RandomBalancer(Balancer):
    """Any, with equal chances."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._row = _Row(source)

    def put(self, key: ReplicaKey, load: int) -> None:
        self._row.put(key)

    def remove(self, key: ReplicaKey) -> None:
        self._row.remove(key)

    def choose(self, without: Collection[ReplicaKey] = ()) -> ReplicaKey | None:
        return self._row.draw(without)


class RoundRobinBalancer(Balancer):
    """The one that has waited longest for its turn; newcomers first."""

    def __init__(self) -> None:
        self._turns: OrderedDict[ReplicaKey, None] = OrderedDict()

    def put(self, key: ReplicaKey, load: int) -> None:
        if key not in self._turns:
            self._turns[key] = None
            self._turns.move_to_end(key, last=False)

    def remove(self, key: ReplicaKey) -> None:
        self._turns.pop(key, None)

    def choose(self, without: Collection[ReplicaKey] = ()) -> ReplicaKey | None:
        chosen = next((key for key in self._turns if key not in without), None)
        if chosen is not None:
            self._turns.move_to_end(chosen)
        return chosen


class LeastQueueLengthBalancer(Balancer):
    """The one that holds the fewest requests; among equals, the one that has waited longest for its turn."""

    def __init__(self) -> None:
        self._loads: dict[ReplicaKey, int] = {}
        self._by_load: dict[int, OrderedDict[ReplicaKey, None]] = {}  # without empty ones: there are few

    def put(self, key: ReplicaKey, load: int) -> None:
        if self._loads.get(key) != load:
            self.remove(key)
            self._loads[key] = load
            self._by_load.setdefault(load, OrderedDict())[key] = None

    def remove(self, key: ReplicaKey) -> None:
        load = self._loads.pop(key, None)
        if load is not None:
            equals = self._by_load[load]
            del equals[key]
            if not equals:
                del self._by_load[load]

    def choose(self, without: Collection[ReplicaKey] = ()) -> ReplicaKey | None:
        for load in sorted(self._by_load) if without else (min(self._by_load),) if self._by_load else ():
            equals = self._by_load[load]
            for key in equals:
                if key not in without:
                    equals.move_to_end(key)
                    return key
        return None


class PowerOfTwoBalancer(Balancer):
    """The less loaded of two that are drawn: near the least queue, without every head choosing the same replica."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._row = _Row(source)
        self._loads: dict[ReplicaKey, int] = {}

    def put(self, key: ReplicaKey, load: int) -> None:
        self._row.put(key)
        self._loads[key] = load

    def remove(self, key: ReplicaKey) -> None:
        self._row.remove(key)
        self._loads.pop(key, None)

    def choose(self, without: Collection[ReplicaKey] = ()) -> ReplicaKey | None:
        first = self._row.draw(without)
        if first is None:
            return None
        second = self._row.draw({first, *without})
        return second if second is not None and self._loads[second] < self._loads[first] else first


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
