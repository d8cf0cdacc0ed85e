"""Request mode: each request runs whole, one after another, for pipelines that cannot be stepped."""

from collections.abc import Sequence

from omni_worker.engine.scheduler.base import BaseScheduler
from omni_worker.engine.scheduler.interface import RequestState
from omni_worker.engine.scheduler.policies import FifoPolicy, Moment, Policy


class RequestScheduler(BaseScheduler):
    """Gives the runner one request at a time; the runner answers with its result or its error."""

    def __init__(self, policy: Policy | None = None, max_waiting: int | None = None) -> None:
        super().__init__(1, policy or FifoPolicy(), max_waiting)

    def _select(self, now: float) -> tuple[Sequence[RequestState], Sequence[RequestState]]:
        if self._running:
            return (), ()
        pace = self._pace.step_seconds
        moment = Moment(now, limit=lambda key: 1, seconds=lambda key: pace, step_seconds=lambda state: pace)
        first = self._waiting.first(moment)
        return ([self._admit(first)] if first else []), ()
