"""The executor for a replica of one process: the runner runs in the engine's thread, and no message is copied."""

from collections.abc import Callable
from typing import Any

from omni_worker.engine.executor.interface import Executor, ExecutorFailed
from omni_worker.engine.runner import Runner
from omni_worker.engine.scheduler import RunnerOutput, SchedulerOutput
from omni_worker.errors import without_frames


class UniProcExecutor(Executor):
    """Calls a runner directly. `timeout` has no effect, because the loop's own thread runs the call."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def watch(self, on_failure: Callable[[ExecutorFailed], None]) -> None:
        """Does nothing: no worker can die without this process."""

    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        ran = self._runner.execute(output)
        for one in ran.outputs:
            if one.error is not None:
                without_frames(one.error)
        return ran

    def collective_rpc(self, method: str, args: tuple[Any, ...], timeout: float) -> list[Any]:
        return [self._runner.call(method, args)]

    def shutdown(self) -> None:
        self._runner.close()
