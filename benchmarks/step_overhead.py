"""What it costs to run a pipeline step by step: ratios to `pipe(...)` at batch size 1, and microseconds of our own.

Ratios: the same requests by plain diffusers, by the interception alone (a loop over the step protocol), and through
scheduler, executor and engine. The pictures must be equal bit for bit. A ratio above 1 is slower than diffusers.

Own time, measured directly and not as a difference of long times: the engine runs with clocks at its borders, of the
thread's processor time, so that whoever else is on the machine does not count. Model time is that inside the models'
own methods; pipeline time is from a switch into a request's greenlet to the entry of the stand-in that it calls next,
or its end. What is left of the engine's whole time is ours: scheduler, executor, runner, keys, the merging of batches,
the switching of contexts, and the clocks themselves. What a request costs once (its copy of the pipeline and of the
timestep scheduler, the calls of text encoder and decoder) is spread over its steps.

    python -m benchmarks.step_overhead [--quick]
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
from benchmarks import common, systems
from greenlet import greenlet, settrace
from rich.table import Table

from omni_worker.engine.scheduler import StepScheduler
from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.batching.keys import KeyTable
from omni_worker.pipelines.components import intercepted_methods, models
from omni_worker.pipelines.interception.pipeline_copies import InterceptedMethod
from omni_worker.pipelines.protocol import StepState
from omni_worker.pipelines.request_context import RequestContext
from omni_worker.requests import GenerationParams

PAIRS = {4: 24, 20: 12, 50: 6}
BATCHES = (1, 8, 32)
INTERCEPTION, ENGINE = "interception", "engine"
PARTS = {
    "keys": (ProvenBatches, "key_of"),
    "scheduler: what runs": (StepScheduler, "schedule"),
    "scheduler: what came out": (StepScheduler, "update_from_output"),
}


def intercepted(model: systems.Model, params: GenerationParams) -> np.ndarray:
    """One request by the step protocol, with nothing around it."""
    state, pipeline = StepState("0", params), model.stepped_plainly
    pipeline.prepare_encode(state)
    while not state.is_done:
        [prediction] = pipeline.denoise_step([state])
        pipeline.step_scheduler(state, prediction)
    result = pipeline.post_decode(state).finish()
    pipeline.close(state)
    return systems.picture(result)


def ratios(model: systems.Model, pairs: dict[int, int]) -> dict[str, Any]:
    """Seconds relative to plain diffusers, by steps."""
    figures = {}
    for steps, wanted in pairs.items():
        params = [systems.request(0, 32, steps)]
        runs: dict[str, Callable[[], Any]] = {
            systems.DIFFUSERS: partial(systems.run_diffusers, model, params),
            INTERCEPTION: partial(intercepted, model, params[0]),
            ENGINE: partial(systems.run_engine, systems.step_mode(most=1), model, params),
        }
        pictures = [np.asarray(run()).reshape(32, 32, -1) for run in runs.values()]
        if not all(np.array_equal(pictures[0], other) for other in pictures[1:]):
            raise SystemExit(f"{steps} steps: the pictures are not equal")
        measured = common.compare(runs, wanted)
        figures[f"{steps} steps"] = {
            name: _slower(pair.figures()) for name, pair in measured.items() if name != systems.DIFFUSERS
        }
    return figures


def _slower(figures: dict[str, Any]) -> dict[str, Any]:
    """The same as own time over the baseline's."""
    inverse = [1 / ratio for ratio in figures["ratios"]]
    return {**figures, **common.spread(inverse), "ratios": inverse}


def now() -> int:
    """Nanoseconds of processor time of this thread, which others on the machine cannot spend."""
    return time.thread_time_ns()


class Clocks:
    """The nanoseconds spent in models, in pipelines' own code, and in parts of ours, by name."""

    def __init__(self) -> None:
        self.spent: dict[str, int] = {}
        self._entered = 0
        self._left = 0

    def inside(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that adds its time to `name`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = now()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[name] = self.spent.get(name, 0) + now() - began

        return timed

    def leaving(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A stand-in's method: its entry ends the pipeline's own time."""

        def suspend(*args: Any, **kwargs: Any) -> Any:
            self._left = now()
            return function(*args, **kwargs)

        return suspend

    def switched(self, event: str, greenlets: tuple[greenlet, greenlet]) -> None:
        """Hears of every switch between the engine and a request's greenlet."""
        at, (origin, target) = now(), greenlets
        if target.parent is not None:
            self._entered, self._left = at, 0
        elif origin.parent is not None:
            self.spent["pipeline"] = self.spent.get("pipeline", 0) + (self._left or at) - self._entered

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch everything within."""
        suspending = InterceptedMethod.suspending
        with ExitStack() as patches:
            patches.enter_context(
                patch.object(InterceptedMethod, "suspending", lambda *args: self.leaving(suspending(*args)))
            )
            for part, (owner, name) in PARTS.items():
                patches.enter_context(patch.object(owner, name, self.inside(part, getattr(owner, name))))
            patches.callback(settrace, settrace(self.switched))
            yield


def own_time(rounds: int, steps: int, batches: Sequence[int]) -> dict[str, Any]:
    """Microseconds of our own for one request's step (its two calls, in and out), by how many run together."""
    clocks = Clocks()
    model = systems.Model(around=partial(_clocked, clocks))
    figures = {}
    for batch in batches:
        params = [systems.request(i, 32, steps) for i in range(batch)]
        run = partial(systems.run_engine, systems.step_mode(most=batch), model, params)
        run()
        rows: list[dict[str, float]] = []
        for _ in range(rounds):
            clocks.spent.clear()
            with clocks.running():
                began = now()
                run()
                whole = now() - began
            spent = {name: clocks.spent[name] for name in ("model", "pipeline", *PARTS)}
            own = whole - spent["model"] - spent["pipeline"]
            rows.append({name: spent_on / 1e3 / (batch * steps) for name, spent_on in {"own": own, **spent}.items()})
        figures[f"{batch} together"] = {name: common.spread([row[name] for row in rows]) for name in rows[0]}
    return figures


def _clocked(clocks: Clocks, pipe: Any) -> None:
    """Put the clock around every method of a model that a pipeline calls."""
    for name, model in models(pipe).items():
        for method in intercepted_methods(name, model):
            vars(model)[method.name] = clocks.inside("model", getattr(model, method.name))


def each_call(model: systems.Model, repeats: int) -> dict[str, Any]:
    """Microseconds of `KeyTable.of(call)`, and of entering and leaving the context, for each call of a request
    with one step, in the pipeline's order."""
    figures: dict[str, Any] = {}
    state, pipeline = StepState("0", systems.request(0, 32, 1)), model.stepped_plainly
    pipeline.prepare_encode(state)
    while not state.is_done:
        pending = pipeline.runs[state.request_id].pending
        assert pending is not None
        call = pending.call
        known = KeyTable()
        known.of(call)
        figures[f"{call.phase}: {call.model}"] = {
            "key": common.spread([_each(known.of, [replace(call) for _ in range(repeats)]) for _ in range(7)]),
            "context": common.spread([_each(_enter_and_leave, [call.context] * repeats) for _ in range(7)]),
        }
        pipeline.step_scheduler(state, pipeline.denoise_step([state])[0])
    pipeline.close(state)
    return figures


def _enter_and_leave(context: RequestContext) -> None:
    with context.active():
        pass


def _each(function: Callable[[Any], Any], values: Sequence[Any]) -> float:
    """The median of what the calls took, in microseconds."""
    times = []
    for value in values:
        began = time.perf_counter_ns()
        function(value)
        times.append(time.perf_counter_ns() - began)
    return statistics.median(times) / 1e3


def main() -> None:
    """Measure, and print the tables."""
    args = common.parser(__doc__, "step_overhead").parse_args()
    common.start(args)
    before, model = common.machine(), systems.Model()
    common.settle()
    figures = {
        "ratios": ratios(model, {4: 1} if args.quick else PAIRS),
        "own_microseconds_a_step": own_time(1, 4, BATCHES[:2]) if args.quick else own_time(9, 20, BATCHES),
        "microseconds_a_call": each_call(model, 20 if args.quick else 300),
    }
    show(figures)
    common.write(args.output, before, figures)


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    table = Table("", INTERCEPTION, ENGINE, title="time, plain diffusers = 1")
    for steps, row in figures["ratios"].items():
        table.add_row(steps, *(common.text(row[name], digits=3) for name in (INTERCEPTION, ENGINE)))
    common.console.print(table)
    columns = list(figures["own_microseconds_a_step"])
    table = Table("", *columns, title="µs for one request's step")
    for name in figures["own_microseconds_a_step"][columns[0]]:
        row = (figures["own_microseconds_a_step"][column][name] for column in columns)
        table.add_row(name, *(common.text(one, "", 0) for one in row))
    common.console.print(table)
    table = Table("call", "its key", "its context", title="µs, again and again")
    for name, row in figures["microseconds_a_call"].items():
        table.add_row(name, *(common.text(row[part], "", 1) for part in ("key", "context")))
    common.console.print(table)


if __name__ == "__main__":
    main()
