"""The contract of an executor: pure transport between the engine's loop and one or more runners."""

from abc import ABC, abstractmethod
from typing import Any

from omni_worker.engine.scheduler import RunnerOutput, SchedulerOutput


class ExecutorFailed(Exception):
    """The executor's workers are gone; the replica cannot go on."""


class Executor(ABC):
    """Used by the engine's loop thread alone."""

    @abstractmethod
    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        """Run one scheduler output. A request's failure is in its entry; raises ExecutorFailed if the workers died."""

    @abstractmethod
    def collective_rpc(self, method: str, args: tuple[Any, ...], timeout: float) -> list[Any]:
        """Call a runner method on every worker; the answers in rank order. Raises what the method raised."""

    @abstractmethod
    def shutdown(self) -> None:
        """End the workers. May be called more than once."""
