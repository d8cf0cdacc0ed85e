"""The contract of a runner, and of the batching keys that it returns."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol, runtime_checkable

from omni_worker.device import failures
from omni_worker.engine.scheduler import RunnerOutput, SchedulerOutput

TOKENS_PHASE = "tokens"
"""The phase of a language model's calls."""


@runtime_checkable
class LabelledKey(Protocol):
    """A batching key that names its kind of call in metrics and traces. Schedulers never read the labels."""

    @property
    def labels(self) -> tuple[str, str, str]:
        """Phase, model and variant: a number for each shape of the model's calls, or a word for calls without one."""


@runtime_checkable
class Unfinished(Protocol):
    """A request's result that needs more work, in any thread, before it is complete."""

    def finish(self) -> Any:
        """The complete result. Raises an exception if the request has failed after all."""


class Runner(ABC):
    """Contains the model and the state of the requests that it runs. One thread uses it.

    If a replica has several ranks, the outputs of `answering_rank` count; of the other ranks, only failures do.
    """

    rpc_methods: ClassVar[tuple[str, ...]] = ("stats", "check_device", "end_warm_up")
    answering_rank: int = 0

    @abstractmethod
    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        """Run one output. It never raises because a request failed: the request's entry has the error."""

    def call(self, method: str, args: tuple[Any, ...]) -> Any:
        """Call one of `rpc_methods`. Raises ValueError for another method, and what the method raises."""
        if method not in self.rpc_methods:
            raise ValueError(f"the runner has no method {method!r}; there are: {', '.join(self.rpc_methods)}")
        return getattr(self, method)(*args)

    def check_device(self) -> None:
        """Raises DeviceFailed if this process can no longer use its device."""
        failures.check_device()

    def end_warm_up(self) -> None:  # noqa: B027
        """The replica has run its own requests; those of users follow."""

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Counters since the start, for metrics."""

    @abstractmethod
    def close(self) -> None:
        """Drop the state of every request."""
