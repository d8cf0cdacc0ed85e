"""The contract of a runner."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from omni_worker.engine.scheduler import RunnerOutput, SchedulerOutput


class Runner(ABC):
    """Holds the model and the state of the requests it runs. Used from one thread."""

    rpc_methods: ClassVar[tuple[str, ...]] = ("stats",)

    @abstractmethod
    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        """Run one output. Never raises for a request's failure: that is in the request's entry."""

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Counters since the start, for metrics."""

    @abstractmethod
    def close(self) -> None:
        """Drop every request's state."""
