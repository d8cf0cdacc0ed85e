"""Trace spans of the requests that a replica runs: one span for the run, with one child span for each phase.

A request waits in the `queue`, the runner prepares it, and then it goes from model call to model call. Its phase is the
phase of its next call: encode, denoise and decode for a pipeline; prefill and tokens for a language model. In request
mode the only phase after the queue is `run`. Any thread may call the methods: the engine's thread reports its steps,
the event loop everything else.
"""

import threading
from dataclasses import dataclass

from omni_worker.engine.engine import EngineStep
from omni_worker.engine.runner.interface import TOKENS_PHASE
from omni_worker.engine.scheduler import RequestOutput
from omni_worker.replica.batch_report import name_of
from omni_worker.replica.wire.messages import Trace
from omni_worker.telemetry.tracing import REQUEST, STAGE, Span, Tracing

QUEUE, PREPARE, RUN, PREFILL = "queue", "prepare", "run", "prefill"
STEPS = "omni.steps"


@dataclass
class TracedRun:
    """A request with a trace.

    span: of the whole run
    phase: the span of the current phase, which is called `name` and began after `steps` steps
    """

    span: Span
    phase: Span
    name: str
    attributes: dict[str, str | int | float]
    steps: int = 0


class RequestSpans:
    """The open spans of all requests that came with a trace."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._runs: dict[str, TracedRun] = {}
        self._lock = threading.Lock()

    def begin(self, id: str, trace: Trace) -> None:
        """A request arrived, and waits in the queue."""
        attributes: dict[str, str | int | float] = {REQUEST: trace.request, STAGE: trace.stage}
        span = self._tracing.begin("replica", attributes, trace.carrier, "server")
        with self._lock:
            self._runs[id] = TracedRun(span, self._tracing.begin(QUEUE, attributes, span.carrier), QUEUE, attributes)

    def record_step(self, step: EngineStep) -> None:
        """The engine finished a step: some requests enter their next phase."""
        new = {request.id for request in step.scheduled.new}
        with self._lock:
            for output in step.output.outputs:
                if (run := self._runs.get(output.id)) is not None:
                    self._update(run, output, output.id in new, step)

    def end(self, id: str, error: str | None = None) -> None:
        """A request ended. Requests that ended before, or that have no trace, are ignored."""
        with self._lock:
            run = self._runs.pop(id, None)
        if run is None:
            return
        if error is not None:
            for span in (run.phase, run.span):
                span.fail(error)
        run.phase.end()
        run.span.end()

    def _update(self, run: TracedRun, output: RequestOutput, is_new: bool, step: EngineStep) -> None:
        if is_new:
            self._enter(run, PREPARE if output.result is None else RUN, step.began, 0)
        if output.key is None:
            run.phase.set_attributes({STEPS: output.step - run.steps})
        elif (name := phase_of(output)) != run.name:
            self._enter(run, name, step.ended, output.step)

    def _enter(self, run: TracedRun, name: str, at: float, steps: int) -> None:
        if steps > run.steps:
            run.phase.set_attributes({STEPS: steps - run.steps})
        run.phase.end(at)
        run.phase = self._tracing.begin(name, run.attributes, run.span.carrier, at=at)
        run.name, run.steps = name, steps


def phase_of(output: RequestOutput) -> str:
    """The phase of a request's next model call."""
    phase = name_of(output.key).phase
    return PREFILL if phase == TOKENS_PHASE and not output.step else phase
