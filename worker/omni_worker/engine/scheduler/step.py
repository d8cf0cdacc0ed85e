"""Step mode: every output advances one batch by one model call, so requests join and leave between any two calls."""

from omni_worker.engine.scheduler.base import BaseScheduler
from omni_worker.engine.scheduler.interface import SchedulerOutput
from omni_worker.engine.scheduler.policies import FifoPolicy, Policy


class StepScheduler(BaseScheduler):
    """Admits up to `max_num_seqs` requests, and lets `policy` choose which of the prepared ones run next."""

    def __init__(self, max_num_seqs: int, policy: Policy | None = None) -> None:
        super().__init__(max_num_seqs)
        self._policy = policy or FifoPolicy()

    def schedule(self) -> SchedulerOutput:
        admitted = self._admit()
        ready = [state for state in self._running.values() if state.prepared]
        batch = self._policy.choose(ready, self.max_num_seqs) if ready else []
        return self._output(new=[state for state in admitted if not state.prepared], cached=batch)
