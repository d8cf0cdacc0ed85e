"""Step mode: every output advances one batch by one model call, so requests join and leave between any two calls."""

from collections.abc import Hashable

from omni_worker.engine.scheduler.base import BaseScheduler
from omni_worker.engine.scheduler.batch_size import BatchSizes
from omni_worker.engine.scheduler.interface import RunnerOutput, SchedulerEvent, SchedulerOutput
from omni_worker.engine.scheduler.policies import FifoPolicy, Policy


class StepScheduler(BaseScheduler):
    """Admits up to `max_num_seqs` requests, and lets `policy` choose which of the prepared ones run next.

    With `find_batch_size` a batch grows only as far as that pays, by what earlier batches of its key took.
    """

    def __init__(self, max_num_seqs: int, policy: Policy | None = None, find_batch_size: bool = False) -> None:
        super().__init__(max_num_seqs)
        self._policy = policy or FifoPolicy()
        self._find_batch_size = find_batch_size
        self._sizes = BatchSizes(max_num_seqs)

    def schedule(self) -> SchedulerOutput:
        admitted = self._admit()
        ready = [state for state in self._running.values() if state.prepared]
        batch = self._policy.choose(ready, self.limit) if ready else []
        return self._output(new=[state for state in admitted if not state.prepared], cached=batch)

    def limit(self, key: Hashable) -> int:
        """How many calls of `key` go into one batch."""
        return self._sizes.limit(key) if self._find_batch_size else self.max_num_seqs

    @property
    def batch_sizes(self) -> list[int]:
        """The limit of every key that was measured."""
        return [self.limit(key) for key in self._sizes.known]

    def update_from_output(self, scheduled: SchedulerOutput, output: RunnerOutput) -> list[SchedulerEvent]:
        if scheduled.cached and output.call_seconds is not None:
            state = self._running.get(scheduled.cached[0])
            if state is not None and state.key is not None:
                self._sizes.measured(state.key, len(scheduled.cached), output.call_seconds)
        return super().update_from_output(scheduled, output)
