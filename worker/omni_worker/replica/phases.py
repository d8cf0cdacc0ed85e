"""The spans of the requests that a replica runs: one for each run, and in it one for each phase, one after another.

A request waits in the `queue`, is prepared, and then goes from model call to model call. Its phase is that of the
next call: encode, denoise and decode of a pipeline; prefill and tokens of a language model. One that runs whole has the
phase `run` alone. Methods may be called from any thread: the engine's tells of its turns, the event loop of the rest.
"""

import threading
from dataclasses import dataclass

from omni_worker.engine.engine import Turn
from omni_worker.engine.runner.autoregressive import KEY as TOKENS
from omni_worker.engine.scheduler import RequestOutput
from omni_worker.replica.batch_report import name_of
from omni_worker.replica.wire.messages import Trace
from omni_worker.telemetry.tracing import REQUEST, STAGE, Span, Tracing

QUEUE, PREPARE, RUN, PREFILL = "queue", "prepare", "run", "prefill"
STEPS = "omni.steps"


@dataclass
class Told:
    """A run that is told of: its span, and that of its phase, which began after so many steps."""

    run: Span
    phase: Span
    name: str
    attributes: dict[str, str | int | float]
    steps: int = 0


class Phases:
    """Of those runs that came with a trace."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._told: dict[str, Told] = {}
        self._lock = threading.Lock()

    def begin(self, id: str, trace: Trace) -> None:
        """A run came, and waits."""
        attributes: dict[str, str | int | float] = {REQUEST: trace.request, STAGE: trace.stage}
        run = self._tracing.begin("replica", attributes, trace.carrier, "server")
        with self._lock:
            self._told[id] = Told(run, self._tracing.begin(QUEUE, attributes, run.carrier), QUEUE, attributes)

    def turned(self, turn: Turn) -> None:
        """The engine's loop has turned."""
        new = {request.id for request in turn.scheduled.new}
        with self._lock:
            for output in turn.output.outputs:
                if (told := self._told.get(output.id)) is not None:
                    self._follow(told, output, output.id in new, turn)

    def end(self, id: str, error: str | None = None) -> None:
        """A run has ended; it is passed over where it had ended before, or is not told of."""
        with self._lock:
            told = self._told.pop(id, None)
        if told is None:
            return
        if error is not None:
            for span in (told.phase, told.run):
                span.fail(error)
        told.phase.end()
        told.run.end()

    def _follow(self, told: Told, output: RequestOutput, is_new: bool, turn: Turn) -> None:
        if is_new:
            self._enter(told, PREPARE if output.result is None else RUN, turn.began, 0)
        if output.key is None:
            told.phase.note({STEPS: output.step - told.steps})
        elif (name := phase_of(output)) != told.name:
            self._enter(told, name, turn.ended, output.step)

    def _enter(self, told: Told, name: str, at: float, steps: int) -> None:
        if steps > told.steps:
            told.phase.note({STEPS: steps - told.steps})
        told.phase.end(at)
        told.phase = self._tracing.begin(name, told.attributes, told.run.carrier, at=at)
        told.name, told.steps = name, steps


def phase_of(output: RequestOutput) -> str:
    """Of a request's next model call."""
    phase = name_of(output.key).phase
    return PREFILL if phase == TOKENS and not output.step else phase
