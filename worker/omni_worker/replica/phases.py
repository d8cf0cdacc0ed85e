"""The spans of the requests that a replica runs: one for each run, and in it one for each phase, one after another.

A request waits in the `queue`, is prepared, and then goes from model call to model call. Its phase is that of the
next call: encode, denoise and decode of a pipeline; prefill and tokens of a language model. One that runs whole has the
phase `run` alone. Methods may be called from any thread: the engine's tells of its turns, the event loop of the rest.
"""

import threading
from dataclasses import dataclass

from omni_worker.engine.engine import EngineStep
from omni_worker.engine.runner.autoregressive import KEY as TOKENS
from omni_worker.engine.scheduler import RequestOutput
from omni_worker.replica.batch_report import name_of
from omni_worker.replica.wire.messages import Trace
from omni_worker.telemetry.tracing import REQUEST, STAGE, Span, Tracing

QUEUE, PREPARE, RUN, PREFILL = "queue", "prepare", "run", "prefill"
STEPS = "omni.steps"


@dataclass
class TracedRun:
    """A run that is run of: its span, and that of its phase, which began after so many steps."""

    run: Span
    phase: Span
    name: str
    attributes: dict[str, str | int | float]
    steps: int = 0


class Phases:
    """Of those runs that came with a trace."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._runs: dict[str, TracedRun] = {}
        self._lock = threading.Lock()

    def begin(self, id: str, trace: Trace) -> None:
        """A run came, and waits."""
        attributes: dict[str, str | int | float] = {REQUEST: trace.request, STAGE: trace.stage}
        run = self._tracing.begin("replica", attributes, trace.carrier, "server")
        with self._lock:
            self._runs[id] = TracedRun(run, self._tracing.begin(QUEUE, attributes, run.carrier), QUEUE, attributes)

    def record_step(self, step: EngineStep) -> None:
        """Follow the traced requests of an engine step into their next phases."""
        new = {request.id for request in step.scheduled.new}
        with self._lock:
            for output in step.output.outputs:
                if (run := self._runs.get(output.id)) is not None:
                    self._follow(run, output, output.id in new, step)

    def end(self, id: str, error: str | None = None) -> None:
        """A run has ended; it is passed over where it had ended before, or is not run of."""
        with self._lock:
            run = self._runs.pop(id, None)
        if run is None:
            return
        if error is not None:
            for span in (run.phase, run.run):
                span.fail(error)
        run.phase.end()
        run.run.end()

    def _follow(self, run: TracedRun, output: RequestOutput, is_new: bool, step: EngineStep) -> None:
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
        run.phase = self._tracing.begin(name, run.attributes, run.run.carrier, at=at)
        run.name, run.steps = name, steps


def phase_of(output: RequestOutput) -> str:
    """Of a request's next model call."""
    phase = name_of(output.key).phase
    return PREFILL if phase == TOKENS and not output.step else phase
