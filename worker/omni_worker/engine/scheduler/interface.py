"""The contract between engine, scheduler and runner.

The engine calls `schedule`, has the output executed, and hands the runner's answer to `update_from_output`; nothing
else moves a request. A scheduler never looks into a payload, and treats a batching key as an opaque value: requests
whose keys are equal may be run by one model call.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any


class RequestStatus(Enum):
    """Where a request is in its life; it ends in one of the last three."""

    WAITING = auto()
    RUNNING = auto()
    PREEMPTED = auto()
    COMPLETED = auto()
    ABORTED = auto()
    FAILED = auto()


@dataclass(frozen=True)
class SchedulerRequest:
    """A request as it enters: an id of its own, a payload for the runner, and what a policy may go by.

    priority: a higher one goes before a lower one
    tenant: who asked, for fair shares
    deadline: when its result is wanted, in seconds on the clock that `schedule` is given; None is whenever
    steps: how many steps it is expected to take, until the runner knows; 0 where nobody does
    refusable: whether it may be turned away for want of room, and not one that was taken before
    """

    id: str
    payload: Any
    priority: int = 0
    tenant: str = ""
    deadline: float | None = None
    steps: int = 0
    refusable: bool = True


class QueueFull(ValueError):
    """There is no room for the request. `retry_after`: about how many seconds until there will be."""

    def __init__(self, held: int, retry_after: float) -> None:
        super().__init__(
            f"the queue is full: {held} requests are held; there will be room in about {retry_after:.0f} s"
        )
        self.retry_after = retry_after


@dataclass
class RequestState:
    """A request inside a scheduler. `key` is that of its next model call: None until the runner, to which it is
    `handed_over` once, has prepared it.

    `in_loop` says whether that call is one of the denoising loop, and not of the encoding before or the decoding after.
    `arrival` counts requests, `arrived` is in seconds on the scheduler's clock, `served` numbers its last batch.
    """

    request: SchedulerRequest
    arrival: int
    arrived: float = 0.0
    status: RequestStatus = RequestStatus.WAITING
    key: Hashable | None = None
    in_loop: bool = True
    step: int = 0
    total_steps: int = 0
    handed_over: bool = False
    prepared: bool = False
    served: int = 0

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.id

    @property
    def steps_left(self) -> int:
        """Steps until its end, as far as is known; at least one."""
        return max(1, (self.total_steps or self.request.steps) - self.step)


@dataclass(frozen=True)
class SchedulerOutput:
    """What to run now.

    new: requests the runner has not seen, to prepare (step mode) or to run whole (request mode)
    cached: ids of prepared requests that share one key, to advance by one model call
    finished: ids that ended since the last output, whose state the runner drops
    """

    step_id: int
    new: tuple[SchedulerRequest, ...] = ()
    cached: tuple[str, ...] = ()
    finished: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do, not even to free."""
        return not (self.new or self.cached or self.finished)


@dataclass(frozen=True)
class RequestOutput:
    """What became of a scheduled request: it has a next call (`key`), or is done (`result`), or failed (`error`).

    `partial`: what there is of its result, where that was asked for and is due: text since the last one, or a preview.
    """

    id: str
    key: Hashable | None = None
    in_loop: bool = True
    step: int = 0
    total_steps: int = 0
    partial: Any = None
    result: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class RunnerOutput:
    """The answer to one SchedulerOutput: one entry for each of its `new` and `cached`, in any order.

    `call_seconds` is what the one model call for `cached` took; None where there was none, or it was no usual one.
    `out_of_memory`: the batch was too large for the device, and was run in parts.
    """

    step_id: int
    outputs: tuple[RequestOutput, ...] = ()
    call_seconds: float | None = None
    out_of_memory: bool = False


@dataclass(frozen=True)
class RequestProgress:
    """A request went on. `step` of `total_steps` timestep-scheduler steps are done (0 where unknown).

    `partial`: what there is of its result, where that was asked for and is due.
    """

    id: str
    step: int
    total_steps: int
    partial: Any = None


@dataclass(frozen=True)
class Finished:
    """A request ended: exactly one such event is given for every request that was added."""

    id: str
    status: RequestStatus
    result: Any = None
    error: Exception | None = None


SchedulerEvent = RequestProgress | Finished


@dataclass(frozen=True)
class EngineLoad:
    """How much a scheduler holds."""

    waiting: int = 0
    running: int = 0


@dataclass(frozen=True)
class KeyStats:
    """What is known of the batches of one key.

    limit: how many calls go into one
    line: (a, b) where a batch of B calls takes a + b·B seconds; None while that is not known
    batches, calls: how many were run so far, as long as the key is remembered
    seconds: what the batches took in all, as far as that was told
    """

    key: Hashable
    limit: int
    line: tuple[float, float] | None
    batches: int
    calls: int
    seconds: float = 0.0


@dataclass(frozen=True)
class SchedulerStats:
    """What the metrics show of a scheduler.

    wait: about how many seconds a request that came now would wait until it begins
    refused: how many were turned away so far for want of room
    keys: what is known of the batches of each key
    """

    wait: float
    refused: int
    keys: tuple[KeyStats, ...] = ()


class SchedulerInterface(ABC):
    """A state machine over requests. Not thread-safe: the engine has a lock around every call."""

    @abstractmethod
    def add_request(self, request: SchedulerRequest, now: float = 0.0) -> None:
        """Take a request. Raises ValueError if one with its id is held already, and QueueFull if there is no room."""

    @abstractmethod
    def schedule(self, now: float = 0.0) -> SchedulerOutput:
        """Decide what runs next; `now` is in seconds on any steady clock."""

    @abstractmethod
    def update_from_output(self, scheduled: SchedulerOutput, output: RunnerOutput) -> list[SchedulerEvent]:
        """Move every scheduled request on. One that the runner did not answer for fails."""

    @abstractmethod
    def abort(self, ids: Iterable[str]) -> list[SchedulerEvent]:
        """End waiting or running requests; ids that are not held are passed over."""

    @abstractmethod
    def preempt(self, id: str) -> None:
        """Put a running request back to the waiting; it resumes where it was. Raises KeyError."""

    @abstractmethod
    def stats(self, now: float = 0.0) -> SchedulerStats:
        """What the metrics show."""

    @property
    @abstractmethod
    def load(self) -> EngineLoad:
        """How much is held now."""

    @property
    @abstractmethod
    def has_work(self) -> bool:
        """Whether `schedule` would give anything to do, freeing included."""
