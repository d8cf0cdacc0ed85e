"""Step mode: every output advances one batch by one model call, so requests join and leave between any two calls."""

from collections.abc import Hashable
from itertools import count

from omni_worker.engine.scheduler.base import BaseScheduler
from omni_worker.engine.scheduler.batch_size import BatchSizes
from omni_worker.engine.scheduler.interface import (
    RequestState,
    RunnerOutput,
    SchedulerEvent,
    SchedulerOutput,
    Status,
)
from omni_worker.engine.scheduler.policies import FifoPolicy, Moment, Policy, class_of


class StepScheduler(BaseScheduler):
    """Runs up to `max_num_seqs` requests, and lets `policy` choose who they are and which of them are next.

    Calls of the denoising loop and others (text encoding, decoding) take turns where both are ready: so the loop never
    waits for more than one call of another kind, and newcomers and finished requests pass through at once.

    With `find_batch_size` a batch grows only as far as that pays, by what earlier batches of its key took.
    """

    def __init__(self, max_num_seqs: int, policy: Policy | None = None, find_batch_size: bool = False) -> None:
        super().__init__(max_num_seqs)
        self._policy = policy or FifoPolicy()
        self._find_batch_size = find_batch_size
        self._sizes = BatchSizes(max_num_seqs)
        self._loop_is_next = True
        self._turns = count(1)

    def schedule(self, now: float = 0.0) -> SchedulerOutput:
        moment = Moment(now, self.limit, self._sizes.seconds)
        admitted = self._fill(moment)
        ready = [state for state in self._running.values() if state.prepared]
        batch = self._policy.choose(self._of_turn(ready), moment) if ready else []
        turn = next(self._turns)
        for state in batch:
            state.served = turn
        return self._output(new=[state for state in admitted if not state.prepared], cached=batch)

    def _of_turn(self, ready: list[RequestState]) -> list[RequestState]:
        """Those of the ready whose kind of call is next: the other kind than last time, where there is one."""
        turn = [state for state in ready if state.in_loop is self._loop_is_next] or ready
        self._loop_is_next = not turn[0].in_loop
        return turn

    def limit(self, key: Hashable) -> int:
        """How many calls of `key` go into one batch."""
        return self._sizes.limit(key) if self._find_batch_size else self._sizes.bound(key)

    def update_from_output(self, scheduled: SchedulerOutput, output: RunnerOutput) -> list[SchedulerEvent]:
        state = self._running.get(scheduled.cached[0]) if scheduled.cached else None
        if state is not None and state.key is not None:
            if output.out_of_memory:
                self._sizes.too_large(state.key, len(scheduled.cached))
            elif output.call_seconds is not None:
                self._sizes.measured(state.key, len(scheduled.cached), output.call_seconds)
        return super().update_from_output(scheduled, output)

    def _fill(self, moment: Moment) -> list[RequestState]:
        """Let the first of the waiting run: in free places, and in those of requests that give way."""
        admitted: list[RequestState] = []
        while self._waiting and not self._is_settled():
            first = min(self._waiting.values(), key=lambda state: self._policy.order(state, moment))
            if len(self._running) == self.max_num_seqs:
                last = max(self._running.values(), key=lambda state: self._policy.order(state, moment))
                if not self._gives_way(last, first, moment):
                    break
                self.preempt(last.id)
            admitted.append(self._admit(first))
        return [state for state in admitted if state.status is Status.RUNNING]

    def _is_settled(self) -> bool:
        """Whether nobody could be admitted now: spares the search where many wait, which is when it would cost."""
        if len(self._running) < self.max_num_seqs or self._policy.preempts:
            return False
        held = (*self._running.values(), *self._waiting.values())
        return len({state.request.priority for state in held}) == 1

    def _gives_way(self, running: RequestState, waiting: RequestState, moment: Moment) -> bool:
        if not running.prepared:
            return False
        if class_of(running, moment.now) < class_of(waiting, moment.now):
            return True
        return self._policy.preempts and self._policy.order(waiting, moment) < self._policy.order(running, moment)
