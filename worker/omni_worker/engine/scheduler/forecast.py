"""Predicts when the requests of a scheduler will end: for the wait metric, and for clients that a full queue rejects.

`Pace` measures past steps, `end_times` simulates the steps to come, and `Forecast` combines them for a scheduler. The
simulation advances all running requests evenly. It is right on average while the work stays as it was, and ignores
priorities.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice

from omni_worker.engine.scheduler.batch_size import BatchSizes
from omni_worker.engine.scheduler.interface import RequestState
from omni_worker.engine.scheduler.waiting import WaitingRequests

FORGET = 0.995
UNKNOWN_SECONDS = 1.0
REUSE_SECONDS = 1.0  # how long rejected requests get their times from one simulation
HORIZON = 512  # how many ends are simulated; later ones are extrapolated at the mean rate

KeyCounts = Counter[Hashable | None]
"""How many running requests have their next call under each key; None counts those whose cost is unknown."""


@dataclass
class Pace:
    """How long steps take in practice: sums over past steps, in which old ones fade.

    A step takes longer than its model call: it includes other calls of the same step (guidance, another model),
    encoding, decoding and all work of the host. `stretch` is the factor between them.
    """

    _seconds: float = 0.0
    _steps: float = 0.0
    _modelled: float = 0.0

    def add_step(self, seconds: float, steps: int, modelled: float) -> None:
        """An engine step took `seconds`, in which requests completed `steps` of their steps; the share of the model
        calls that belongs to those was `modelled` seconds."""
        self._seconds = self._seconds * FORGET + seconds
        self._steps = self._steps * FORGET + steps
        self._modelled = self._modelled * FORGET + modelled

    @property
    def step_seconds(self) -> float:
        """Seconds for one step of one request, with as many others beside it as lately."""
        return self._seconds / self._steps if self._steps else UNKNOWN_SECONDS

    @property
    def stretch(self) -> float:
        """Seconds of real time for each second of modelled calls."""
        return self._seconds / self._modelled if self._modelled else 1.0


def end_times(
    running: Iterable[tuple[int, Hashable | None]],
    waiting: Iterable[tuple[int, Hashable | None]],
    places: int,
    round_seconds: Callable[[KeyCounts], float],
) -> Iterator[float]:
    """Seconds until the first, the second, … of the requests ends.

    A request is given as (steps left, key). Waiting requests take places in their order as these become free. In every
    round, each running request completes one step; `round_seconds` is the duration of a round.
    """
    first, queue = list(running), iter(waiting)
    first += islice(queue, max(0, places - len(first)))
    active = [(steps, number, key) for number, (steps, key) in enumerate(first)]
    heapify(active)
    number = len(active)
    counts: KeyCounts = Counter(key for _, _, key in active)
    rounds, seconds = 0, 0.0
    while active:
        last_round, _, key = heappop(active)
        seconds += (last_round - rounds) * round_seconds(counts)
        rounds = last_round
        counts[key] -= 1
        yield seconds
        for steps, key in queue:
            heappush(active, (rounds + steps, number, key))
            counts[key] += 1
            number += 1
            break


@dataclass
class _Measurement:
    """One engine step, from one `schedule` to the next.

    began: when it was scheduled
    steps: how many steps requests completed in it
    modelled: the predicted seconds of the model calls that belong to those steps
    is_typical: whether `Pace` can learn from it
    has_returned: whether the runner's output has arrived
    """

    began: float
    steps: int = 0
    modelled: float = 0.0
    is_typical: bool = True
    has_returned: bool = False


class Forecast:
    """Measures the engine's steps and predicts waits. The scheduler reports every step to it, and every request's end.

    `sizes` has the measured costs of the model calls; the scheduler updates it.
    """

    def __init__(self, sizes: BatchSizes, max_num_seqs: int) -> None:
        self._sizes = sizes
        self._max_num_seqs = max_num_seqs
        self._pace = Pace()
        self._step: _Measurement | None = None
        self._rejected = 0  # rejected requests whose predicted places have not become free yet
        self._simulated: tuple[float, list[float]] | None = None

    def begin_step(self, now: float) -> None:
        """An engine step that has something to run starts."""
        self._step = _Measurement(now)

    def add_progress(self, steps: int) -> None:
        """A request came `steps` nearer to its end in this step; negative if it now expects more than before."""
        if self._step is not None:
            self._step.steps += max(0, steps)

    def add_batch(self, key: Hashable, size: int, in_loop: bool) -> None:
        """The step ran a batch of `size` calls; call this after `add_progress` for its requests."""
        if self._step is not None:
            self._step.modelled = self._step.steps * self._sizes.batch_seconds(key, size) / size
            self._step.is_typical = self._step.modelled > 0.0 or not (in_loop and self._step.steps)

    def step_returned(self) -> None:
        """The runner has returned the output of the step."""
        if self._step is not None:
            self._step.has_returned = True

    def end_step(self, now: float) -> None:
        """The next step is about to start; a step lasts until then."""
        if self._step is not None and self._step.is_typical:
            self._pace.add_step(now - self._step.began, self._step.steps, self._step.modelled)
        self._step = None

    def place_freed(self) -> None:
        """A request ended, so that a rejected one can return."""
        self._rejected = max(0, self._rejected - 1)

    @property
    def mean_step_seconds(self) -> float:
        """Seconds for one step of one request, with as many others beside it as lately."""
        return self._pace.step_seconds

    def step_seconds(self, state: RequestState) -> float:
        """Seconds for one step of the request if it runs alone; the mean if unknown."""
        call = self._sizes.batch_seconds(state.key, 1) if state.in_loop else 0.0
        return call * self._pace.stretch if call > 0.0 else self._pace.step_seconds

    def seconds_until_start(self, running: Mapping[str, RequestState], waiting: WaitingRequests, now: float) -> float:
        """Seconds until a request that arrived now would start."""
        beyond = len(running) + len(waiting) - self._max_num_seqs
        return 0.0 if beyond < 0 else _time_at(self._end_times(running, waiting, now), beyond)

    def seconds_until_room(self, running: Mapping[str, RequestState], waiting: WaitingRequests, now: float) -> float:
        """Seconds until there is room for a request that is rejected now, after those rejected before it."""
        if self._simulated is None or not 0.0 <= now - self._simulated[0] < REUSE_SECONDS:
            self._simulated = now, self._end_times(running, waiting, now)
        place, self._rejected = self._rejected, min(self._rejected + 1, len(running) + len(waiting) - 1)
        times = self._simulated[1]
        # After its last step a request may have an expensive decoding to do, which only the mean rate accounts for.
        return max(_time_at(times, place), times[-1] * (place + 1) / len(times))

    def _end_times(self, running: Mapping[str, RequestState], waiting: WaitingRequests, now: float) -> list[float]:
        """Seconds from now until the first of the requests has ended, the second, and so on."""
        elapsed = now - self._step.began if self._step is not None and not self._step.has_returned else 0.0
        active = [(state.steps_left, self._measured_key(state)) for state in running.values()]
        queue = ((state.steps_left, self._measured_key(state)) for state in waiting)
        ends = end_times(active, queue, self._max_num_seqs, self._round_seconds)
        return [max(0.0, end - elapsed) for end in islice(ends, HORIZON)]

    def _measured_key(self, state: RequestState) -> Hashable | None:
        """The key of the request's next steps if its cost has been measured."""
        return state.key if state.in_loop and self._sizes.batch_seconds(state.key, 1) > 0.0 else None

    def _round_seconds(self, counts: KeyCounts) -> float:
        """Seconds for one step of each of these requests."""
        modelled = 0.0
        for key, calls in counts.items():
            if key is not None:
                full, rest = divmod(calls, limit := self._sizes.limit(key))
                modelled += full * self._sizes.batch_seconds(key, limit) + self._sizes.batch_seconds(key, rest)
        return modelled * self._pace.stretch + counts[None] * self._pace.step_seconds


def _time_at(times: list[float], place: int) -> float:
    """The time at this place, counted from 0; beyond the last one, extrapolated at the mean rate."""
    return times[place] if place < len(times) else times[-1] * (place + 1) / len(times)
