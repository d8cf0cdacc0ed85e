"""The two queues that every scheduler has, waiting and running, and the verbs that move requests between them.

It decides no order: subclasses select what runs, with a policy. It predicts nothing: that is the forecast's task.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from omni_worker.engine.scheduler.batch_size import BatchSizes
from omni_worker.engine.scheduler.forecast import Forecast
from omni_worker.engine.scheduler.interface import (
    EngineLoad,
    Finished,
    QueueFull,
    RequestOutput,
    RequestProgress,
    RequestState,
    RequestStatus,
    RunnerOutput,
    SchedulerEvent,
    SchedulerInterface,
    SchedulerOutput,
    SchedulerRequest,
    SchedulerStats,
)
from omni_worker.engine.scheduler.policies import Policy
from omni_worker.engine.scheduler.waiting import WaitingRequests


class BaseScheduler(SchedulerInterface):
    """Runs at most `max_num_seqs` requests and queues at most `max_waiting` more (None: any number).

    A full queue rejects a request with the predicted seconds until it has room. The n-th rejected request gets the time
    when the n-th place will be free, so that clients do not all retry for the same place.
    """

    def __init__(
        self, max_num_seqs: int, policy: Policy, max_waiting: int | None, find_batch_size: bool = False
    ) -> None:
        if max_num_seqs < 1:
            raise ValueError(f"max_num_seqs is {max_num_seqs}; at least one request must be able to run")
        if max_waiting is not None and max_waiting < 0:
            raise ValueError(f"max_waiting is {max_waiting}; give 0 to let none wait, None to let all")
        self.max_num_seqs = max_num_seqs
        self.max_waiting = max_waiting
        self._policy = policy
        self._sizes = BatchSizes(max_num_seqs, find_batch_size)
        self._waiting = WaitingRequests(policy)
        self._running: dict[str, RequestState] = {}
        self._finished: set[str] = set()
        self._forecast = Forecast(self._sizes, max_num_seqs)
        self._refused = 0
        self._arrivals = count()
        self._step_ids = count()

    def add_request(self, request: SchedulerRequest, now: float = 0.0, is_ready: bool = True) -> None:
        if request.id in self._running or self._waiting.get(request.id):
            raise ValueError(f"a request with the id {request.id!r} is held already")
        if request.refusable and self._is_full:
            self._refused += 1
            raise QueueFull(self._num_requests, self._forecast.seconds_until_room(self._running, self._waiting, now))
        self._waiting.add(RequestState(request, next(self._arrivals), now, is_ready=is_ready))

    def is_waiting_for_payload(self, request: SchedulerRequest) -> bool:
        state = self._waiting.get(request.id)
        return state is not None and not state.is_ready and state.request is request

    def make_ready(self, request: SchedulerRequest, payload: Any) -> None:
        state = self._waiting.get(request.id)
        if state is not None and self.is_waiting_for_payload(request):
            state.request, state.is_ready = replace(request, payload=payload), True
            self._waiting.add(state)

    def fail(self, request: SchedulerRequest, error: Exception) -> list[SchedulerEvent]:
        state = self._waiting.get(request.id)
        if state is None or not self.is_waiting_for_payload(request):
            return []
        return [self._finish(state, RequestStatus.FAILED, error=error)]

    def schedule(self, now: float = 0.0) -> SchedulerOutput:
        self._forecast.end_step(now)
        new, cached = self._select(now)
        for state in new:
            state.is_sent = True
        if new or cached:
            self._forecast.begin_step(now)
        finished, self._finished = frozenset(self._finished), set()
        return SchedulerOutput(
            step_id=next(self._step_ids),
            new=tuple(state.request for state in new),
            cached=tuple(state.id for state in cached),
            finished=finished,
        )

    @abstractmethod
    def _select(self, now: float) -> tuple[Sequence[RequestState], Sequence[RequestState]]:
        """The running requests to send to the runner for the first time, and those to advance by one model call."""

    def update_from_output(self, scheduled: SchedulerOutput, output: RunnerOutput) -> list[SchedulerEvent]:
        self._forecast.step_returned()
        outputs = {one.id: one for one in output.outputs}
        events: list[SchedulerEvent] = []
        for id in (*(request.id for request in scheduled.new), *scheduled.cached):
            state = self._state(id)
            if state is not None:
                events.append(self._advance(state, outputs.get(id)))
        return events

    def abort(self, ids: Iterable[str]) -> list[SchedulerEvent]:
        states = [state for id in dict.fromkeys(ids) if (state := self._state(id))]
        return [self._finish(state, RequestStatus.ABORTED) for state in states]

    def preempt(self, id: str) -> None:
        state = self._running.pop(id)
        state.status = RequestStatus.PREEMPTED
        self._waiting.add(state)

    def stats(self, now: float = 0.0) -> SchedulerStats:
        return SchedulerStats(self._forecast.seconds_until_start(self._running, self._waiting, now), self._refused)

    @property
    def load(self) -> EngineLoad:
        return EngineLoad(waiting=len(self._waiting), running=len(self._running))

    @property
    def has_work(self) -> bool:
        return bool(self._waiting.num_ready or self._running or self._finished)

    @property
    def _num_requests(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def _is_full(self) -> bool:
        return self.max_waiting is not None and self._num_requests >= self.max_num_seqs + self.max_waiting

    def _state(self, id: str) -> RequestState | None:
        return self._running.get(id) or self._waiting.get(id)

    def _admit(self, state: RequestState) -> RequestState:
        """Move a waiting request to the running ones."""
        self._waiting.remove(state.id)
        state.status = RequestStatus.RUNNING
        self._running[state.id] = state
        return state

    def _advance(self, state: RequestState, output: RequestOutput | None) -> SchedulerEvent:
        if output is None:
            error = RuntimeError("the runner gave no answer for this request")
            return self._finish(state, RequestStatus.FAILED, error=error)
        if output.error is not None:
            return self._finish(state, RequestStatus.FAILED, error=output.error)
        before = state.steps_left
        if output.key is None:
            self._forecast.add_progress(before)
            return self._finish(state, RequestStatus.COMPLETED, result=output.result)
        state.key, state.in_loop, state.is_prepared = output.key, output.in_loop, True
        state.component = output.component
        state.step, state.total_steps = output.step, output.total_steps
        self._forecast.add_progress(before - state.steps_left)
        return RequestProgress(state.id, state.step, state.total_steps, output.partial)

    def _finish(
        self, state: RequestState, status: RequestStatus, result: object = None, error: Exception | None = None
    ) -> Finished:
        self._waiting.remove(state.id)
        self._running.pop(state.id, None)
        self._forecast.place_freed()
        state.status = status
        if state.is_sent:
            self._finished.add(state.id)
        return Finished(state.id, status, result, error)
