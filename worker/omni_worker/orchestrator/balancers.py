"""Selects one of the replicas that are up for a request. Each policy is one small class.

The pool reports every change to its balancer, so a selection takes about as long with a thousand replicas as with two.
"""

import random
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection

from omni_worker.errors import UsageError

ReplicaKey = tuple[int, int]
"""Stage id and replica id."""

MAX_DRAWS = 8  # random draws of an allowed replica, before all allowed replicas are listed


class Balancer(ABC):
    """The replicas that are up, by key, with their loads."""

    @abstractmethod
    def put(self, key: ReplicaKey, load: int) -> None:
        """Add a replica, or update its load."""

    @abstractmethod
    def remove(self, key: ReplicaKey) -> None:
        """Remove a replica. Does nothing if it is not here."""

    @abstractmethod
    def choose(self, without: Collection[ReplicaKey] = ()) -> ReplicaKey | None:
        """Select the replica for the next request, but none of `without`. Returns None if no other is left."""


class _RandomSet:
    """A set of keys with put, remove and draw in constant time."""

    def __init__(self, source: random.Random | None) -> None:
        self._random = source or random.Random()
        self._keys: list[ReplicaKey] = []
        self._positions: dict[ReplicaKey, int] = {}

    def put(self, key: ReplicaKey) -> None:
        if key not in self._positions:
            self._positions[key] = len(self._keys)
            self._keys.append(key)

    def remove(self, key: ReplicaKey) -> None:
        position = self._positions.pop(key, None)
        if position is not None:
            last = self._keys.pop()
            if last != key:
                self._keys[position], self._positions[last] = last, position

    def draw(self, without: Collection[ReplicaKey]) -> ReplicaKey | None:
        for _ in range(MAX_DRAWS if self._keys else 0):
            key = self._keys[int(self._random.random() * len(self._keys))]
            if key not in without:
                return key
        allowed = [key for key in self._keys if key not in without]
        return self._random.choice(allowed) if allowed else None


class RandomBalancer(Balancer):
    """Selects any replica with equal probability."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._replicas = _RandomSet(source)

    def put(self, key: ReplicaKey, load: int) -> None:
        self._replicas.put(key)

    def remove(self, key: ReplicaKey) -> None:
        self._replicas.remove(key)

    def choose(self, without: Collection[ReplicaKey] = ()) -> ReplicaKey | None:
        return self._replicas.draw(without)


class RoundRobinBalancer(Balancer):
    """Selects the replica that was selected longest ago; new replicas come first."""

    def __init__(self) -> None:
        self._order: OrderedDict[ReplicaKey, None] = OrderedDict()

    def put(self, key: ReplicaKey, load: int) -> None:
        if key not in self._order:
            self._order[key] = None
            self._order.move_to_end(key, last=False)

    def remove(self, key: ReplicaKey) -> None:
        self._order.pop(key, None)

    def choose(self, without: Collection[ReplicaKey] = ()) -> ReplicaKey | None:
        chosen = next((key for key in self._order if key not in without), None)
        if chosen is not None:
            self._order.move_to_end(chosen)
        return chosen


class LeastQueueLengthBalancer(Balancer):
    """Selects the replica with the least load; among equals, the one that was selected longest ago."""

    def __init__(self) -> None:
        self._loads: dict[ReplicaKey, int] = {}
        self._by_load: dict[int, OrderedDict[ReplicaKey, None]] = {}  # only loads that occur, which are few

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
    """Draws two replicas and selects the less loaded one, so that several heads do not all select the same replica."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._replicas = _RandomSet(source)
        self._loads: dict[ReplicaKey, int] = {}

    def put(self, key: ReplicaKey, load: int) -> None:
        self._replicas.put(key)
        self._loads[key] = load

    def remove(self, key: ReplicaKey) -> None:
        self._replicas.remove(key)
        self._loads.pop(key, None)

    def choose(self, without: Collection[ReplicaKey] = ()) -> ReplicaKey | None:
        first = self._replicas.draw(without)
        if first is None:
            return None
        second = self._replicas.draw({first, *without})
        return second if second is not None and self._loads[second] < self._loads[first] else first


BALANCERS: dict[str, type[Balancer]] = {
    "random": RandomBalancer,
    "round-robin": RoundRobinBalancer,
    "least-queue-length": LeastQueueLengthBalancer,
    "power-of-two": PowerOfTwoBalancer,
}


def make_balancer(policy: str) -> Balancer:
    """Create the balancer of a policy. Raises UsageError if there is no such policy."""
    if policy not in BALANCERS:
        raise UsageError(f"--omni-lb-policy {policy}: choose one of {', '.join(BALANCERS)}")
    return BALANCERS[policy]()
