"""The engine as a library: runs requests in the caller's thread, without a server."""

from collections.abc import Callable, Sequence
from typing import Any

from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.runner.diffusion import StepRunner
from omni_worker.engine.scheduler import Finished, SchedulerEvent, SchedulerInterface, SchedulerRequest, StepScheduler
from omni_worker.pipelines.protocol import SupportsStepExecution


def generate(
    pipeline: SupportsStepExecution,
    requests: Sequence[Any],
    max_num_seqs: int = 32,
    scheduler: SchedulerInterface | None = None,
    on_event: Callable[[SchedulerEvent], None] | None = None,
) -> list[Finished]:
    """Run `requests`, batched at every step; returns how each finished, in their order.

    A request is a GenerationParams, or the keyword arguments of the pipeline's own call; its result is then what that
    call returns. If a request fails, its entry has the error, and the others continue.
    """
    finished: dict[str, Finished] = {}

    def collect(event: SchedulerEvent) -> None:
        if isinstance(event, Finished):
            finished[event.id] = event
        if on_event is not None:
            on_event(event)

    runner = StepRunner(pipeline)
    engine = Engine(scheduler or StepScheduler(max_num_seqs), UniProcExecutor(runner), collect)
    for i, request in enumerate(requests):
        engine.add(SchedulerRequest(str(i), request))
    try:
        while len(finished) < len(requests):
            engine.step()
    finally:
        runner.close()
    return [finished[str(i)] for i in range(len(requests))]
