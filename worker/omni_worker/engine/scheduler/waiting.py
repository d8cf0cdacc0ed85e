"""The waiting requests, sorted by the policy's order. Finding the first takes logarithmic time.

Requests whose payloads are not ready wait here too, but none of them is the first.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from omni_worker.engine.scheduler.interface import RequestState
from omni_worker.engine.scheduler.policies import Policy, PolicyContext, Rank

REFRESH_SECONDS = 1.0


class WaitingRequests:
    """A heap by the policy's order.

    Orders change slowly, as requests age and as costs are measured. So all of them are recomputed only once in
    REFRESH_SECONDS; a new request's order is computed at once.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._states: dict[str, RequestState] = {}
        self._heap: list[tuple[Rank, int, RequestState]] = []
        self._pushed = 0
        self._not_in_heap: list[RequestState] = []
        self._not_ready: set[str] = set()
        self._refreshed = float("-inf")

    def __len__(self) -> int:
        return len(self._states)

    @property
    def num_ready(self) -> int:
        """How many of them could run."""
        return len(self._states) - len(self._not_ready)

    def __iter__(self) -> Iterator[RequestState]:
        """In the order in which they were added."""
        return iter(self._states.values())

    def get(self, id: str) -> RequestState | None:
        """The waiting request with this id; None if there is none."""
        return self._states.get(id)

    def add(self, state: RequestState) -> None:
        """Add a request, or one again whose payload has become ready."""
        self._states[state.id] = state
        if state.is_ready:
            self._not_ready.discard(state.id)
            self._not_in_heap.append(state)
        else:
            self._not_ready.add(state.id)

    def remove(self, id: str) -> None:
        """Remove a request. Unknown ids are ignored."""
        state = self._states.pop(id, None)
        self._not_ready.discard(id)
        if self._heap and self._heap[0][2] is state:
            heappop(self._heap)

    def first(self, context: PolicyContext) -> RequestState | None:
        """The request that runs next; None if none waits."""
        if context.now - self._refreshed >= REFRESH_SECONDS:
            self._refreshed = context.now
            self._heap = [self._entry(state, context) for state in self if state.is_ready]
            heapify(self._heap)
        else:
            for state in self._not_in_heap:
                heappush(self._heap, self._entry(state, context))
        self._not_in_heap.clear()
        while self._heap and self._states.get(self._heap[0][2].id) is not self._heap[0][2]:
            heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def _entry(self, state: RequestState, context: PolicyContext) -> tuple[Rank, int, RequestState]:
        self._pushed += 1
        return self._policy.order(state, context), self._pushed, state
