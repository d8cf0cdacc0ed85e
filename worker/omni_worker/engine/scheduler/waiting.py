"""The waiting requests, with the one that goes first at hand, however many wait."""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from omni_worker.engine.scheduler.interface import RequestState
from omni_worker.engine.scheduler.policies import Moment, Policy, Rank

REFRESH_SECONDS = 1.0


class WaitingRequests:
    """A heap by the policy's order. Orders change slowly, as requests age and as more is learned of what calls take;
    so they are found anew only every REFRESH_SECONDS, and those of newcomers at once."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._states: dict[str, RequestState] = {}
        self._heap: list[tuple[Rank, int, RequestState]] = []
        self._pushed = 0
        self._newcomers: list[RequestState] = []
        self._refreshed = float("-inf")

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[RequestState]:
        """In the order in which they came to wait."""
        return iter(self._states.values())

    def get(self, id: str) -> RequestState | None:
        """The request of this id, if it waits."""
        return self._states.get(id)

    def add(self, state: RequestState) -> None:
        """Let a request wait."""
        self._states[state.id] = state
        self._newcomers.append(state)

    def remove(self, id: str) -> None:
        """Forget a request; one that does not wait is passed over."""
        state = self._states.pop(id, None)
        if self._heap and self._heap[0][2] is state:
            heappop(self._heap)

    def first(self, moment: Moment) -> RequestState | None:
        """The one that goes first."""
        if moment.now - self._refreshed >= REFRESH_SECONDS:
            self._refreshed = moment.now
            self._heap = [self._entry(state, moment) for state in self]
            heapify(self._heap)
        else:
            for state in self._newcomers:
                heappush(self._heap, self._entry(state, moment))
        self._newcomers.clear()
        while self._heap and self._states.get(self._heap[0][2].id) is not self._heap[0][2]:
            heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def _entry(self, state: RequestState, moment: Moment) -> tuple[Rank, int, RequestState]:
        self._pushed += 1
        return self._policy.order(state, moment), self._pushed, state
