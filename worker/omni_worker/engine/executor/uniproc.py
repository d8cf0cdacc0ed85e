"""The executor for a replica of one process: the runner lives in the engine's own thread, and no message is copied."""

from collections.abc import Callable
from typing import Any

from omni_worker.engine.executor.interface import Executor, ExecutorFailed
from omni_worker.engine.runner import Runner
from omni_worker.engine.scheduler import RunnerOutput, SchedulerOutput


class UniProcExecutor(Executor):
    """Calls a runner directly. `timeout` cannot interrupt a call here: the loop thread itself runs it."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def watch(self, on_failure: Callable[[ExecutorFailed], None]) -> None:
        """There is no process here that could be lost without this one."""

    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        return self._runner.execute(output)

    def collective_rpc(self, method: str, args: tuple[Any, ...], timeout: float) -> list[Any]:
        return [self._runner.call(method, args)]

    def shutdown(self) -> None:
        self._runner.close()
