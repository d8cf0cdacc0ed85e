"""The closest peer's scheduling policy, to compare ours with: a reimplementation of the policy, not the peer's code.

The peer is vLLM-Omni 0.30.0 in step mode. What is taken over, from its `diffusion/sched/base_scheduler.py` and
`diffusion/worker/diffusion_model_runner.py`:

- Admission is strictly first in, first out, at most `max_num_seqs` running (its default is 1; we give it 8). The first
  of the waiting whose batching key differs from that of the running ends it: nobody behind it is looked at, so one
  request of another size blocks all until the running have drained. Step counts are no part of the key.
- A turn is one step of all that run. Newcomers are encoded, and finished ones decoded, inside it: one request after
  another, while the others stand still. Guidance is two forward passes, each batched over all that run.

Everything below it, the runner, the interception and the models, is our own, so that the policy alone differs.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence

from omni_worker.engine.scheduler import FifoPolicy
from omni_worker.engine.scheduler.base import BaseScheduler
from omni_worker.engine.scheduler.interface import RequestState, SchedulerRequest

MAX_NUM_SEQS = 8


class PeerScheduler(BaseScheduler):
    """`key_of` says which requests may run together at all, before anything has been run."""

    def __init__(self, key_of: Callable[[SchedulerRequest], Hashable], max_num_seqs: int = MAX_NUM_SEQS) -> None:
        super().__init__(max_num_seqs, FifoPolicy(), max_waiting=None)
        self._key_of = key_of
        self._to_go: list[str] = []
        self._step_before: dict[str, int] = {}

    def _select(self, now: float) -> tuple[Sequence[RequestState], Sequence[RequestState]]:
        inline = next((state for state in self._running.values() if not state.in_loop), None)
        if inline is not None:
            return (), [inline]
        turn = [state for id in self._to_go if (state := self._running.get(id)) is not None]
        if not turn and self._is_between_steps():
            if newcomers := list(self._newcomers()):
                return newcomers, ()
            self._step_before = {state.id: state.step for state in self._running.values()}
        turn = turn or list(self._running.values())
        batch = [state for state in turn if state.key == turn[0].key]
        self._to_go = [state.id for state in turn if state.key != turn[0].key]
        return (), batch

    def _is_between_steps(self) -> bool:
        """Whether all that run have made every call of the step that they were in."""
        return all(self._step_before.get(state.id, -1) < state.step for state in self._running.values())

    def _newcomers(self) -> Iterable[RequestState]:
        """Lets those run that may, in order of arrival, up to the first that may not."""
        for first in list(self._waiting):
            running = next(iter(self._running.values()), None)
            fits = running is None or self._key_of(first.request) == self._key_of(running.request)
            if not fits or len(self._running) >= self.max_num_seqs:
                return
            yield self._admit(first)
