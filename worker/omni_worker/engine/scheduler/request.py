"""Request mode: requests run from start to end, one after another. For pipelines that cannot run step by step."""

from collections.abc import Sequence

from omni_worker.engine.scheduler.base import BaseScheduler
from omni_worker.engine.scheduler.interface import RequestState
from omni_worker.engine.scheduler.policies import FifoPolicy, Policy, PolicyContext


class RequestScheduler(BaseScheduler):
    """Gives the runner one request at a time. The runner returns its result or its error."""

    def __init__(self, policy: Policy | None = None, max_waiting: int | None = None) -> None:
        super().__init__(1, policy or FifoPolicy(), max_waiting)

    def _select(self, now: float) -> tuple[Sequence[RequestState], Sequence[RequestState]]:
        if self._running:
            return (), ()
        seconds = self._forecast.mean_step_seconds
        context = PolicyContext(now, lambda key: 1, lambda key: seconds, lambda state: seconds)
        first = self._waiting.first(context)
        return ([self._admit(first)] if first else []), ()
