"""Step mode: every output advances one batch by one model call, so requests join and leave between any two calls."""

from collections.abc import Hashable, Sequence
from itertools import count

from omni_worker.engine.scheduler.base import BaseScheduler
from omni_worker.engine.scheduler.components import ComponentTurns
from omni_worker.engine.scheduler.interface import (
    KeyStats,
    RequestState,
    RequestStatus,
    RunnerOutput,
    SchedulerEvent,
    SchedulerOutput,
    SchedulerStats,
)
from omni_worker.engine.scheduler.policies import FifoPolicy, Policy, PolicyContext, priority_class

MAX_UNTIMED = 8  # batches whose times are waited for


class StepScheduler(BaseScheduler):
    """Runs up to `max_num_seqs` requests. `policy` selects them, and the next batch among them.

    If both are ready, calls of the denoising loop alternate with other calls (text encoding, decoding). So the loop
    never waits for more than one other call, and new and ending requests pass through at once. Where the components of
    the model take turns on the device, requests wait for those that need the same one (`ComponentTurns`).

    With `find_batch_size`, a batch grows only while earlier batches of its key show that growing pays.
    """

    def __init__(
        self,
        max_num_seqs: int,
        policy: Policy | None = None,
        find_batch_size: bool = False,
        max_waiting: int | None = None,
    ) -> None:
        super().__init__(max_num_seqs, policy or FifoPolicy(), max_waiting, find_batch_size)
        self._components = ComponentTurns()
        self._loop_is_next = True
        self._batch: tuple[Hashable, bool] = None, False
        self._batch_numbers = count(1)
        self._untimed: dict[int, tuple[Hashable, int]] = {}  # key and size by step id

    def _select(self, now: float) -> tuple[Sequence[RequestState], Sequence[RequestState]]:
        context = PolicyContext(now, self._sizes.limit, self._sizes.seconds_per_call, self._forecast.step_seconds)
        admitted = self._fill_places(context)
        prepared = [state for state in self._running.values() if state.is_prepared]
        ready = self._components.choose(prepared, now)
        batch = self._policy.choose_batch(self._next_kind(ready), context) if ready else []
        number = next(self._batch_numbers)
        for state in batch:
            state.last_batch = number
            self._batch = state.key, state.in_loop
        return [state for state in admitted if not state.is_prepared], batch

    def _next_kind(self, ready: list[RequestState]) -> list[RequestState]:
        """The ready requests whose next call is of the other kind than the last batch; all of them if there are none.

        The kinds are calls of the denoising loop and other calls.
        """
        chosen = [state for state in ready if state.in_loop is self._loop_is_next] or ready
        self._loop_is_next = not chosen[0].in_loop
        return chosen

    def update_from_output(self, scheduled: SchedulerOutput, output: RunnerOutput) -> list[SchedulerEvent]:
        if not scheduled.cached:
            return super().update_from_output(scheduled, output)
        (key, in_loop), size = self._batch, len(scheduled.cached)
        self._sizes.add_batch(key, size)
        self._untimed[scheduled.step_id] = key, size
        self._add_time(output)
        if output.out_of_memory:
            self._sizes.too_large(key, size)
        events = super().update_from_output(scheduled, output)
        self._forecast.add_batch(key, size, in_loop)
        return events

    def _add_time(self, output: RunnerOutput) -> None:
        """Learn how long a batch took. The runner may know that only when later ones have begun."""
        if output.timed is not None and (batch := self._untimed.pop(output.timed[0], None)) is not None:
            self._sizes.add_time(*batch, output.timed[1])
        while len(self._untimed) > MAX_UNTIMED:
            del self._untimed[next(iter(self._untimed))]

    def stats(self, now: float = 0.0) -> SchedulerStats:
        base = super().stats(now)
        keys = (
            KeyStats(key, self._sizes.limit(key), fit.line, fit.batches, fit.calls, fit.seconds)
            for key, fit in self._sizes.fits.items()
        )
        return SchedulerStats(base.wait, base.refused, tuple(keys))

    def _fill_places(self, context: PolicyContext) -> list[RequestState]:
        """Admit the first of the waiting requests to free places, and to those of requests that it preempts."""
        admitted: list[RequestState] = []
        while (first := self._waiting.first(context)) is not None:
            if len(self._running) == self.max_num_seqs:
                last = self._preemptible_for(first, context)
                if last is None:
                    break
                self.preempt(last.id)
            admitted.append(self._admit(first))
        return [state for state in admitted if state.status is RequestStatus.RUNNING]

    def _preemptible_for(self, waiting: RequestState, context: PolicyContext) -> RequestState | None:
        """The running request that the waiting one may preempt: the last in the policy's order, if any."""
        limit = priority_class(waiting, context.now)
        running = self._running.values()
        if not self._policy.preempts and all(priority_class(one, context.now) >= limit for one in running):
            return None  # the usual case with a long queue: spares ranking the running requests
        prepared = [state for state in running if state.is_prepared]
        if not prepared:
            return None
        last = max(prepared, key=lambda state: self._policy.order(state, context))
        if priority_class(last, context.now) < limit:
            return last
        goes_first = self._policy.preempts and self._policy.order(waiting, context) < self._policy.order(last, context)
        return last if goes_first else None
