"""Step mode: every output advances one batch by one model call, so requests join and leave between any two calls."""

from collections.abc import Hashable, Sequence
from itertools import count

from omni_worker.engine.scheduler.base import BaseScheduler
from omni_worker.engine.scheduler.batch_size import BatchSizes
from omni_worker.engine.scheduler.forecast import Together
from omni_worker.engine.scheduler.interface import (
    KeyStats,
    RequestState,
    RequestStatus,
    RunnerOutput,
    SchedulerEvent,
    SchedulerOutput,
    SchedulerStats,
)
from omni_worker.engine.scheduler.policies import FifoPolicy, Moment, Policy, class_of


class StepScheduler(BaseScheduler):
    """Runs up to `max_num_seqs` requests, and lets `policy` choose who they are and which of them are next.

    Calls of the denoising loop and others (text encoding, decoding) take turns where both are ready: so the loop never
    waits for more than one call of another kind, and newcomers and finished requests pass through at once.

    With `find_batch_size` a batch grows only as far as that pays, by what earlier batches of its key took.
    """

    def __init__(
        self,
        max_num_seqs: int,
        policy: Policy | None = None,
        find_batch_size: bool = False,
        max_waiting: int | None = None,
    ) -> None:
        super().__init__(max_num_seqs, policy or FifoPolicy(), max_waiting)
        self._find_batch_size = find_batch_size
        self._sizes = BatchSizes(max_num_seqs)
        self._loop_is_next = True
        self._batch: tuple[Hashable, bool] = None, False
        self._turns = count(1)

    def _select(self, now: float) -> tuple[Sequence[RequestState], Sequence[RequestState]]:
        moment = Moment(now, self.limit, self._sizes.seconds, self._step_seconds)
        admitted = self._fill(moment)
        ready = [state for state in self._running.values() if state.prepared]
        batch = self._policy.choose(self._of_turn(ready), moment) if ready else []
        turn = next(self._turns)
        for state in batch:
            state.served = turn
            self._batch = state.key, state.in_loop
        return [state for state in admitted if not state.prepared], batch

    def _of_turn(self, ready: list[RequestState]) -> list[RequestState]:
        """Those of the ready whose kind of call is next: the other kind than last time, where there is one."""
        turn = [state for state in ready if state.in_loop is self._loop_is_next] or ready
        self._loop_is_next = not turn[0].in_loop
        return turn

    def limit(self, key: Hashable) -> int:
        """How many calls of `key` go into one batch."""
        return self._sizes.limit(key) if self._find_batch_size else self._sizes.bound(key)

    def update_from_output(self, scheduled: SchedulerOutput, output: RunnerOutput) -> list[SchedulerEvent]:
        if not scheduled.cached:
            return super().update_from_output(scheduled, output)
        (key, is_loop), size = self._batch, len(scheduled.cached)
        self._sizes.ran(key, size, output.call_seconds)
        if output.out_of_memory:
            self._sizes.too_large(key, size)
        events = super().update_from_output(scheduled, output)
        if self._turn is not None:
            self._turn.modelled = self._turn.steps * self._sizes.batch_seconds(key, size) / size
            self._turn.is_usual = self._turn.modelled > 0.0 or not (is_loop and self._turn.steps)
        return events

    def stats(self, now: float = 0.0) -> SchedulerStats:
        base = super().stats(now)
        keys = (
            KeyStats(key, self.limit(key), fit.line, fit.batches, fit.calls, fit.seconds)
            for key, fit in self._sizes.fits.items()
        )
        return SchedulerStats(base.wait, base.refused, tuple(keys))

    def _known_key(self, state: RequestState) -> Hashable | None:
        return state.key if state.in_loop and self._sizes.batch_seconds(state.key, 1) > 0.0 else None

    def _step_seconds(self, state: RequestState) -> float:
        """About how long a step of the request takes where it runs alone; as long as one lately did, if not known."""
        call = self._sizes.batch_seconds(state.key, 1) if state.in_loop else 0.0
        return call * self._pace.stretch if call > 0.0 else self._pace.step_seconds

    def _round_seconds(self, together: Together) -> float:
        modelled = 0.0
        for key, calls in together.items():
            if key is not None:
                full, rest = divmod(calls, limit := self.limit(key))
                modelled += full * self._sizes.batch_seconds(key, limit) + self._sizes.batch_seconds(key, rest)
        return modelled * self._pace.stretch + together[None] * self._pace.step_seconds

    def _fill(self, moment: Moment) -> list[RequestState]:
        """Let the first of the waiting run: in free places, and in those of requests that give way."""
        admitted: list[RequestState] = []
        while (first := self._waiting.first(moment)) is not None:
            if len(self._running) == self.max_num_seqs:
                last = self._giving_way(first, moment)
                if last is None:
                    break
                self.preempt(last.id)
            admitted.append(self._admit(first))
        return [state for state in admitted if state.status is RequestStatus.RUNNING]

    def _giving_way(self, waiting: RequestState, moment: Moment) -> RequestState | None:
        """The running request that gives way to one that waits: the last of those that come after it, if any."""
        limit = class_of(waiting, moment.now)
        if not self._policy.preempts and all(class_of(one, moment.now) >= limit for one in self._running.values()):
            return None  # the usual case where many wait: spares ranking those that run
        prepared = [state for state in self._running.values() if state.prepared]
        if not prepared:
            return None
        last = max(prepared, key=lambda state: self._policy.order(state, moment))
        if class_of(last, moment.now) < limit:
            return last
        after = self._policy.preempts and self._policy.order(waiting, moment) < self._policy.order(last, moment)
        return last if after else None
