"""The engine as a library: requests in, their ends out, in the caller's own thread, with no server around it."""

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
    """Run `requests` batched at every step; how each ended, in their order.

    A request is a GenerationParams, or the keyword arguments of the pipeline's own call: its result is then what the
    call returns. One that fails has its error there; the others go on.
    """
    ended: dict[str, Finished] = {}

    def collect(event: SchedulerEvent) -> None:
        if isinstance(event, Finished):
            ended[event.id] = event
        if on_event is not None:
            on_event(event)

    runner = StepRunner(pipeline)
    engine = Engine(scheduler or StepScheduler(max_num_seqs), UniProcExecutor(runner), collect)
    for i, request in enumerate(requests):
        engine.add(SchedulerRequest(str(i), request))
    try:
        while len(ended) < len(requests):
            engine.step()
    finally:
        runner.close()
    return [ended[str(i)] for i in range(len(requests))]
