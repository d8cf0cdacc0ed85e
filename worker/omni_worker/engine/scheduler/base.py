"""What every scheduler shares: who waits, who runs, who has ended. It decides nothing."""

from collections.abc import Iterable
from itertools import count

from omni_worker.engine.scheduler.interface import (
    Finished,
    Load,
    Progress,
    RequestOutput,
    RequestState,
    RunnerOutput,
    SchedulerEvent,
    SchedulerInterface,
    SchedulerOutput,
    SchedulerRequest,
    Status,
)


class BaseScheduler(SchedulerInterface):
    """Waiting and running requests, each in order of arrival; at most `max_num_seqs` run."""

    def __init__(self, max_num_seqs: int) -> None:
        if max_num_seqs < 1:
            raise ValueError(f"max_num_seqs is {max_num_seqs}; at least one request must be able to run")
        self.max_num_seqs = max_num_seqs
        self._waiting: dict[str, RequestState] = {}
        self._running: dict[str, RequestState] = {}
        self._ended: set[str] = set()
        self._arrivals = count()
        self._step_ids = count()

    def add_request(self, request: SchedulerRequest, now: float = 0.0) -> None:
        if request.id in self._waiting or request.id in self._running:
            raise ValueError(f"a request with the id {request.id!r} is held already")
        self._waiting[request.id] = RequestState(request, next(self._arrivals), now)

    def abort(self, ids: Iterable[str]) -> list[SchedulerEvent]:
        held = [state for id in dict.fromkeys(ids) if (state := self._waiting.get(id) or self._running.get(id))]
        return [self._end(state, Status.ABORTED) for state in held]

    def preempt(self, id: str) -> None:
        state = self._running.pop(id)
        state.status = Status.PREEMPTED
        self._waiting = {id: state, **self._waiting}

    def update_from_output(self, scheduled: SchedulerOutput, output: RunnerOutput) -> list[SchedulerEvent]:
        answers = {answer.id: answer for answer in output.outputs}
        events: list[SchedulerEvent] = []
        for id in (*(request.id for request in scheduled.new), *scheduled.cached):
            state = self._running.get(id) or self._waiting.get(id)
            if state is not None:
                events.append(self._advance(state, answers.get(id)))
        return events

    def _advance(self, state: RequestState, answer: RequestOutput | None) -> SchedulerEvent:
        if answer is None:
            return self._end(state, Status.FAILED, error=RuntimeError("the runner gave no answer for this request"))
        if answer.error is not None:
            return self._end(state, Status.FAILED, error=answer.error)
        if answer.key is None:
            return self._end(state, Status.COMPLETED, result=answer.result)
        state.key, state.in_loop, state.prepared = answer.key, answer.in_loop, True
        state.step, state.total_steps = answer.step, answer.total_steps
        return Progress(state.id, state.step, state.total_steps)

    def _admit(self, state: RequestState) -> RequestState:
        """Let a waiting request run."""
        del self._waiting[state.id]
        state.status = Status.RUNNING
        self._running[state.id] = state
        return state

    def _output(self, new: Iterable[RequestState] = (), cached: Iterable[RequestState] = ()) -> SchedulerOutput:
        ended, self._ended = frozenset(self._ended), set()
        return SchedulerOutput(
            step_id=next(self._step_ids),
            new=tuple(state.request for state in new),
            cached=tuple(state.id for state in cached),
            finished=ended,
        )

    def _end(
        self, state: RequestState, status: Status, result: object = None, error: Exception | None = None
    ) -> Finished:
        was_known_to_runner = state.id in self._running or state.prepared
        self._waiting.pop(state.id, None)
        self._running.pop(state.id, None)
        state.status = status
        if was_known_to_runner:
            self._ended.add(state.id)
        return Finished(state.id, status, result, error)

    @property
    def load(self) -> Load:
        return Load(waiting=len(self._waiting), running=len(self._running))

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running or self._ended)
