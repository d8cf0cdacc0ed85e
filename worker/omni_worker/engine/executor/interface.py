"""The contract of an executor: pure transport between the engine's loop and one or more runners."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from omni_worker.engine.scheduler import RunnerOutput, SchedulerOutput
from omni_worker.errors import CommandError


class ExecutorFailed(CommandError):
    """The executor lost its workers; the replica cannot continue."""


class Executor(ABC):
    """Runs the scheduler's output on the workers. Only the thread of the engine's loop uses it."""

    @abstractmethod
    def watch(self, on_failure: Callable[[ExecutorFailed], None]) -> None:
        """Call `on_failure` from another thread as soon as a worker dies, even while nothing runs.

        Call this once. If a worker is dead already, `on_failure` is called at once. It is never called after
        `shutdown`.
        """

    @abstractmethod
    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        """Run one scheduler output. A failed request's entry has its error. Raises ExecutorFailed if a worker died."""

    @abstractmethod
    def collective_rpc(self, method: str, args: tuple[Any, ...], timeout: float) -> list[Any]:
        """Call a runner method on every worker; returns the results in rank order. Raises what the method raised."""

    @abstractmethod
    def shutdown(self) -> None:
        """End the workers. A second call does nothing."""
