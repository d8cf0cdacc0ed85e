"""Which key runs next, and which requests of it: one small object a policy."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from itertools import count

from omni_worker.engine.scheduler.interface import RequestState

Limit = Callable[[Hashable], int]


class Policy(ABC):
    """Chooses the next batch. A policy may remember what it chose before, and nothing else."""

    @abstractmethod
    def choose(self, ready: Sequence[RequestState], limit: Limit) -> list[RequestState]:
        """At least one of `ready`, all of one key, and at most its `limit`. `ready` is never empty."""


class FifoPolicy(Policy):
    """Oldest first, without head-of-line blocking: keys take turns, and within a key the oldest requests run.

    A key that has not run for the longest time is next; among keys that never ran, that of the oldest request. So a
    short request never waits for a long one of another shape, and requests whose calls alternate between two keys
    (with and without the prompt) fall into step and share both.
    """

    def __init__(self) -> None:
        self._turns = count(1)
        self._last_turn: dict[Hashable, int] = {}

    def choose(self, ready: Sequence[RequestState], limit: Limit) -> list[RequestState]:
        by_key: dict[Hashable, list[RequestState]] = {}
        for state in sorted(ready, key=lambda state: state.arrival):
            by_key.setdefault(state.key, []).append(state)
        key = min(by_key, key=lambda key: (self._last_turn.get(key, 0), by_key[key][0].arrival))
        self._last_turn = {known: turn for known, turn in self._last_turn.items() if known in by_key}
        self._last_turn[key] = next(self._turns)
        return by_key[key][: limit(key)]
