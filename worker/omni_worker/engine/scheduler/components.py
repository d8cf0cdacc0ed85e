"""Which of a model's components the next batch uses, where only one of them is on the device at a time. Pure.

Moving a component takes as long as several steps: about a second for each 20 GB. So requests wait for others that need
the same component, and a move is paid for a batch instead of a request.
"""

from collections.abc import Sequence

from omni_worker.engine.scheduler.interface import RequestState

MAX_WAIT = 5.0
"""Seconds that a request waits for its component while others still use the current one."""


class ComponentTurns:
    """Keeps to the current component while a ready request needs it and nobody has waited for another one too long.

    Then comes the component of the request that has waited longest beyond the limit. If nobody has, encoding and
    decoding come before the denoising loop: what is encoded now joins the loop's batches, and what is decoded makes
    room.
    """

    def __init__(self, max_wait: float | None = None) -> None:
        self._max_wait = MAX_WAIT if max_wait is None else max_wait
        self._current: str | None = None
        self._waiting_since: dict[str, float] = {}

    def choose(self, ready: Sequence[RequestState], now: float) -> list[RequestState]:
        """The ready requests that need the next component. Requests that need none can always run."""
        others = [state for state in ready if state.component not in (None, self._current)]
        self._waiting_since = {state.id: self._waiting_since.get(state.id, now) for state in others}
        own = [state for state in ready if state.component in (None, self._current)]
        overdue = [state for state in others if now - self._waiting_since[state.id] >= self._max_wait]
        if not others or (own and not overdue):
            return own

        def turn(state: RequestState) -> tuple[bool, float, int]:
            return state.in_loop and not overdue, self._waiting_since[state.id], state.arrival

        self._current = min(overdue or others, key=turn).component
        return [state for state in ready if state.component in (None, self._current)]
