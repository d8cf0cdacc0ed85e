"""The contract between engine, scheduler and runner.

The engine calls `schedule`, executes the output, and passes the runner's output to `update_from_output`. Nothing else
changes a request's state. A scheduler never reads a payload, and compares batching keys only for equality: one model
call may run all requests whose keys are equal.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any


class RequestStatus(Enum):
    """A request's place in its lifecycle. The last three are final."""

    WAITING = auto()
    RUNNING = auto()
    PREEMPTED = auto()
    COMPLETED = auto()
    ABORTED = auto()
    FAILED = auto()


@dataclass(frozen=True)
class SchedulerRequest:
    """A new request.

    id: unique among the requests that the scheduler has
    payload: for the runner
    priority: higher priorities run first
    tenant: who sent it, for fair shares
    deadline: when the client needs the result, in seconds on the clock of `schedule`; None means no deadline
    steps: the expected number of steps, until the runner reports it; 0 means unknown
    refusable: whether a full queue may reject it; False for a request that was accepted before
    """

    id: str
    payload: Any
    priority: int = 0
    tenant: str = ""
    deadline: float | None = None
    steps: int = 0
    refusable: bool = True


class QueueFull(ValueError):
    """The queue has no room for the request. `retry_after`: predicted seconds until it has."""

    def __init__(self, held: int, retry_after: float) -> None:
        super().__init__(
            f"the queue is full: {held} requests are held; there will be room in about {retry_after:.0f} s"
        )
        self.retry_after = retry_after


@dataclass
class RequestState:
    """A request inside a scheduler.

    arrival: its number in the order of arrival
    arrival_time: seconds on the scheduler's clock
    key: the batching key of its next model call; None until the runner has prepared the request
    in_loop: whether that call belongs to the denoising loop; False for encoding before it and decoding after it
    component: the component of the model that the call needs, if only some are on the device at a time
    is_sent: whether the runner got it; the runner gets each request once
    is_prepared: whether the runner has prepared it
    last_batch: the number of the last batch that it was in; 0 before the first
    is_ready: whether its payload is ready for the runner
    """

    request: SchedulerRequest
    arrival: int
    arrival_time: float = 0.0
    status: RequestStatus = RequestStatus.WAITING
    key: Hashable | None = None
    in_loop: bool = True
    component: str | None = None
    step: int = 0
    total_steps: int = 0
    is_sent: bool = False
    is_prepared: bool = False
    last_batch: int = 0
    is_ready: bool = True

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.id

    @property
    def steps_left(self) -> int:
        """The expected number of steps to its end; at least one."""
        return max(1, (self.total_steps or self.request.steps) - self.step)


@dataclass(frozen=True)
class SchedulerOutput:
    """What to run now.

    new: requests that the runner has not seen, to prepare (step mode) or to run from start to end (request mode)
    cached: ids of prepared requests that share one key, to advance by one model call
    finished: ids that ended since the last output; the runner drops their state
    """

    step_id: int
    new: tuple[SchedulerRequest, ...] = ()
    cached: tuple[str, ...] = ()
    finished: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether the runner has nothing to do, not even to drop a state."""
        return not (self.new or self.cached or self.finished)


@dataclass(frozen=True)
class RequestOutput:
    """The outcome of one scheduled request: its next call (`key`, `component`), its `result` or its `error`.

    partial: if the client asked for partial results and one is due: the text since the last one, or a preview
    """

    id: str
    key: Hashable | None = None
    in_loop: bool = True
    step: int = 0
    total_steps: int = 0
    partial: Any = None
    result: Any = None
    error: Exception | None = None
    component: str | None = None


@dataclass(frozen=True)
class RunnerOutput:
    """The outcome of one SchedulerOutput: one entry for each of its `new` and `cached`, in any order.

    timed: the step id of an output, this one or an earlier one, and how many seconds its model call for `cached` took;
        None if no time is known now, or the call was not a typical one
    out_of_memory: the batch was too large for the device, and the runner split it
    """

    step_id: int
    outputs: tuple[RequestOutput, ...] = ()
    timed: tuple[int, float] | None = None
    out_of_memory: bool = False


@dataclass(frozen=True)
class RequestProgress:
    """A request has completed `step` of `total_steps` steps (0 if unknown). `partial` is as in RequestOutput."""

    id: str
    step: int
    total_steps: int
    partial: Any = None


@dataclass(frozen=True)
class Finished:
    """A request ended. Every request that was added gets exactly one such event."""

    id: str
    status: RequestStatus
    result: Any = None
    error: Exception | None = None


SchedulerEvent = RequestProgress | Finished


@dataclass(frozen=True)
class EngineLoad:
    """The number of requests that a scheduler has."""

    waiting: int = 0
    running: int = 0


@dataclass(frozen=True)
class KeyStats:
    """What the scheduler measured for the batches of one key.

    limit: how many calls it puts into one batch
    line: (a, b) if a batch of B calls takes a + b·B seconds; None while unknown
    batches, calls: how many ran since the scheduler learned of the key
    seconds: the total time of the batches whose time was measured
    """

    key: Hashable
    limit: int
    line: tuple[float, float] | None
    batches: int
    calls: int
    seconds: float = 0.0


@dataclass(frozen=True)
class SchedulerStats:
    """A scheduler's metrics.

    wait: predicted seconds until a request that arrived now would start
    refused: how many requests were rejected because the queue was full
    keys: the measurements of each key
    """

    wait: float
    refused: int
    keys: tuple[KeyStats, ...] = ()


class SchedulerInterface(ABC):
    """A state machine over requests. It is not thread-safe: the engine holds a lock around every call."""

    @abstractmethod
    def add_request(self, request: SchedulerRequest, now: float = 0.0, is_ready: bool = True) -> None:
        """Accept a request. Raises ValueError if its id is in use, and QueueFull if the queue has no room.

        If its payload is not ready, the request waits until `make_ready` or `fail` is called for it.
        """

    @abstractmethod
    def is_waiting_for_payload(self, request: SchedulerRequest) -> bool:
        """Whether this request was added and still waits for its payload."""

    @abstractmethod
    def make_ready(self, request: SchedulerRequest, payload: Any) -> None:
        """Set the payload of a request that waits for it. Requests that do not are ignored."""

    @abstractmethod
    def fail(self, request: SchedulerRequest, error: Exception) -> list[SchedulerEvent]:
        """End a request that waits for its payload. Requests that do not are ignored."""

    @abstractmethod
    def schedule(self, now: float = 0.0) -> SchedulerOutput:
        """Decide what runs next. `now` is in seconds on any monotonic clock."""

    @abstractmethod
    def update_from_output(self, scheduled: SchedulerOutput, output: RunnerOutput) -> list[SchedulerEvent]:
        """Update every scheduled request. A request that has no entry in `output` fails."""

    @abstractmethod
    def abort(self, ids: Iterable[str]) -> list[SchedulerEvent]:
        """End waiting or running requests. Unknown ids are ignored."""

    @abstractmethod
    def preempt(self, id: str) -> None:
        """Move a running request back to the queue, to resume later. Raises KeyError if it is not running."""

    @abstractmethod
    def stats(self, now: float = 0.0) -> SchedulerStats:
        """The scheduler's metrics."""

    @property
    @abstractmethod
    def load(self) -> EngineLoad:
        """How many requests wait and run now."""

    @property
    @abstractmethod
    def has_work(self) -> bool:
        """Whether `schedule` would return anything to do, dropping states included."""
