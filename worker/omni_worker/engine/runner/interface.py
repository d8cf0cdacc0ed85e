"""The contract of a runner."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from omni_worker.engine.scheduler import RunnerOutput, SchedulerOutput


class Runner(ABC):
    """Holds the model and the state of the requests it runs. Used from one thread.

    Where a replica has several ranks, the outputs of `answering_rank` are its requests'; of the others', only failures.
    """

    rpc_methods: ClassVar[tuple[str, ...]] = ("stats",)
    answering_rank: int = 0

    @abstractmethod
    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        """Run one output. Never raises for a request's failure: that is in the request's entry."""

    def call(self, method: str, args: tuple[Any, ...]) -> Any:
        """Call one of `rpc_methods`. Raises ValueError where it is none, and what the method raises."""
        if method not in self.rpc_methods:
            raise ValueError(f"the runner has no method {method!r}; there are: {', '.join(self.rpc_methods)}")
        return getattr(self, method)(*args)

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Counters since the start, for metrics."""

    @abstractmethod
    def close(self) -> None:
        """Drop every request's state."""
