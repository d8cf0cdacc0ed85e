"""Request mode: each request runs whole, one after another, for pipelines that cannot be stepped."""

from omni_worker.engine.scheduler.base import BaseScheduler
from omni_worker.engine.scheduler.interface import SchedulerOutput


class RequestScheduler(BaseScheduler):
    """Gives the runner one request at a time; the runner answers with its result or its error."""

    def __init__(self) -> None:
        super().__init__(max_num_seqs=1)

    def schedule(self) -> SchedulerOutput:
        return self._output(new=self._admit())
