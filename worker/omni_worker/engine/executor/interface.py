"""The contract of an executor: pure transport between the engine's loop and one or more runners."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from omni_worker.engine.scheduler import RunnerOutput, SchedulerOutput
from omni_worker.errors import CommandError


class ExecutorFailed(CommandError):
    """The executor's workers are gone; the replica cannot go on."""


class Executor(ABC):
    """Used by the engine's loop thread alone."""

    @abstractmethod
    def watch(self, on_failure: Callable[[ExecutorFailed], None]) -> None:
        """Have `on_failure` called, from another thread, as soon as the workers are lost: while nothing runs, too.

        To be called once. It is called at once where they are lost already, and never after `shutdown`.
        """

    @abstractmethod
    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        """Run one scheduler output. A request's failure is in its entry; raises ExecutorFailed if the workers died."""

    @abstractmethod
    def collective_rpc(self, method: str, args: tuple[Any, ...], timeout: float) -> list[Any]:
        """Call a runner method on every worker; the answers in rank order. Raises what the method raised."""

    @abstractmethod
    def shutdown(self) -> None:
        """End the workers. May be called more than once."""
