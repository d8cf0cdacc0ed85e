"""Request mode: each request runs whole, one after another, for pipelines that cannot be stepped."""

from omni_worker.engine.scheduler.base import BaseScheduler
from omni_worker.engine.scheduler.interface import SchedulerOutput
from omni_worker.engine.scheduler.policies import FifoPolicy, Moment, Policy


class RequestScheduler(BaseScheduler):
    """Gives the runner one request at a time; the runner answers with its result or its error."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__(max_num_seqs=1)
        self._policy = policy or FifoPolicy()

    def schedule(self, now: float = 0.0) -> SchedulerOutput:
        if self._running or not self._waiting:
            return self._output()
        moment = Moment(now, limit=lambda key: 1, seconds=lambda key: 1.0)
        first = min(self._waiting.values(), key=lambda state: self._policy.order(state, moment))
        return self._output(new=[self._admit(first)])
