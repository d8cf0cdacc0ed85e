"""What every scheduler shares: who waits, who runs, who has ended, and how many may be held. It decides no order."""

from abc import abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count, islice

from omni_worker.engine.scheduler.forecast import Pace, Together, end_times
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

FORECAST_SECONDS = 1.0  # how long the forecast for those that are turned away is used again
HORIZON = 512  # how many ends are foreseen one by one; those after them come at the mean pace of these


@dataclass
class _Turn:
    """What is being learned of a turn: when it began, by how many steps it brought requests nearer to their ends, and
    how many seconds of model calls those were worth."""

    began: float
    steps: int = 0
    modelled: float = 0.0
    is_usual: bool = True
    is_over: bool = False


class BaseScheduler(SchedulerInterface):
    """At most `max_num_seqs` requests run, and at most `max_waiting` more are held (None: any number).

    One that finds no room is told when there will be: the n-th that was turned away, when the n-th place will be free,
    so that they do not all come back for the same one.
    """

    def __init__(self, max_num_seqs: int, policy: Policy, max_waiting: int | None) -> None:
        if max_num_seqs < 1:
            raise ValueError(f"max_num_seqs is {max_num_seqs}; at least one request must be able to run")
        if max_waiting is not None and max_waiting < 0:
            raise ValueError(f"max_waiting is {max_waiting}; give 0 to let none wait, None to let all")
        self.max_num_seqs = max_num_seqs
        self.max_waiting = max_waiting
        self._policy = policy
        self._waiting = WaitingRequests(policy)
        self._running: dict[str, RequestState] = {}
        self._ended: set[str] = set()
        self._arrivals = count()
        self._step_ids = count()
        self._pace = Pace()
        self._turn: _Turn | None = None
        self._refused = 0
        self._turned_away = 0
        self._forecast: tuple[float, list[float]] | None = None

    def add_request(self, request: SchedulerRequest, now: float = 0.0) -> None:
        if request.id in self._running or self._waiting.get(request.id):
            raise ValueError(f"a request with the id {request.id!r} is held already")
        if request.refusable and self._is_full:
            self._refused += 1
            raise QueueFull(self._held, self._until_room(now))
        self._waiting.add(RequestState(request, next(self._arrivals), now))

    def schedule(self, now: float = 0.0) -> SchedulerOutput:
        if self._turn is not None and self._turn.is_usual:
            self._pace.turned(now - self._turn.began, self._turn.steps, self._turn.modelled)
        new, cached = self._select(now)
        for state in new:
            state.handed_over = True
        self._turn = _Turn(now) if new or cached else None
        ended, self._ended = frozenset(self._ended), set()
        return SchedulerOutput(
            step_id=next(self._step_ids),
            new=tuple(state.request for state in new),
            cached=tuple(state.id for state in cached),
            finished=ended,
        )

    @abstractmethod
    def _select(self, now: float) -> tuple[Sequence[RequestState], Sequence[RequestState]]:
        """The requests to prepare or to run whole, and those to advance by one call, all of them running."""

    def abort(self, ids: Iterable[str]) -> list[SchedulerEvent]:
        held = [state for id in dict.fromkeys(ids) if (state := self._state(id))]
        return [self._end(state, RequestStatus.ABORTED) for state in held]

    def preempt(self, id: str) -> None:
        state = self._running.pop(id)
        state.status = RequestStatus.PREEMPTED
        self._waiting.add(state)

    def update_from_output(self, scheduled: SchedulerOutput, output: RunnerOutput) -> list[SchedulerEvent]:
        if self._turn is not None:
            self._turn.is_over = True
        answers = {answer.id: answer for answer in output.outputs}
        events: list[SchedulerEvent] = []
        for id in (*(request.id for request in scheduled.new), *scheduled.cached):
            state = self._state(id)
            if state is not None:
                events.append(self._advance(state, answers.get(id)))
        return events

    def stats(self, now: float = 0.0) -> SchedulerStats:
        beyond = self._held - self.max_num_seqs
        return SchedulerStats(0.0 if beyond < 0 else _at(self._end_times(now), beyond), self._refused)

    @property
    def load(self) -> EngineLoad:
        return EngineLoad(waiting=len(self._waiting), running=len(self._running))

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running or self._ended)

    @property
    def _held(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def _is_full(self) -> bool:
        return self.max_waiting is not None and self._held >= self.max_num_seqs + self.max_waiting

    def _state(self, id: str) -> RequestState | None:
        return self._running.get(id) or self._waiting.get(id)

    def _advance(self, state: RequestState, answer: RequestOutput | None) -> SchedulerEvent:
        if answer is None:
            return self._end(
                state, RequestStatus.FAILED, error=RuntimeError("the runner gave no answer for this request")
            )
        if answer.error is not None:
            return self._end(state, RequestStatus.FAILED, error=answer.error)
        left = state.steps_left
        if answer.key is None:
            self._progressed(left)
            return self._end(state, RequestStatus.COMPLETED, result=answer.result)
        state.key, state.in_loop, state.prepared = answer.key, answer.in_loop, True
        state.step, state.total_steps = answer.step, answer.total_steps
        self._progressed(left - state.steps_left)
        return RequestProgress(state.id, state.step, state.total_steps, answer.partial)

    def _progressed(self, steps: int) -> None:
        if self._turn is not None:
            self._turn.steps += max(0, steps)

    def _admit(self, state: RequestState) -> RequestState:
        """Let a waiting request run."""
        self._waiting.remove(state.id)
        state.status = RequestStatus.RUNNING
        self._running[state.id] = state
        return state

    def _end(
        self, state: RequestState, status: RequestStatus, result: object = None, error: Exception | None = None
    ) -> Finished:
        self._waiting.remove(state.id)
        self._running.pop(state.id, None)
        self._turned_away = max(0, self._turned_away - 1)
        state.status = status
        if state.handed_over:
            self._ended.add(state.id)
        return Finished(state.id, status, result, error)

    def _until_room(self, now: float) -> float:
        """Seconds until there will be room for one more that was turned away."""
        if self._forecast is None or not 0.0 <= now - self._forecast[0] < FORECAST_SECONDS:
            self._forecast = now, self._end_times(now)
        place, self._turned_away = self._turned_away, min(self._turned_away + 1, self._held - 1)
        times = self._forecast[1]
        # A request that did its steps may have a dear decoding before it, which is only foreseen in the mean.
        return max(_at(times, place), times[-1] * (place + 1) / len(times))

    def _end_times(self, now: float) -> list[float]:
        """When the first of the held requests will have ended, the second, … in seconds from now."""
        elapsed = now - self._turn.began if self._turn is not None and not self._turn.is_over else 0.0
        running = [(state.steps_left, self._known_key(state)) for state in self._running.values()]
        waiting = ((state.steps_left, self._known_key(state)) for state in self._waiting)
        ends = end_times(running, waiting, self.max_num_seqs, self._round_seconds)
        return [max(0.0, end - elapsed) for end in islice(ends, HORIZON)]

    def _known_key(self, state: RequestState) -> Hashable | None:
        """The key of the request's next steps, where it is known what those take."""
        return None

    def _round_seconds(self, together: Together) -> float:
        """About how long one step of all these requests takes."""
        return together.total() * self._pace.step_seconds


def _at(times: list[float], place: int) -> float:
    """The time at this place, counted from 0; beyond the last, at the mean pace."""
    return times[place] if place < len(times) else times[-1] * (place + 1) / len(times)
