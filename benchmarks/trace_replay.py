"""Latency under load: frozen traces of requests, replayed in real time against every system, open loop.

Arrivals are Poisson; 4, 20 and 50 steps in the ratio 50 : 35 : 15; 70 % of 32x32 and 30 % of 64x64 pixels. A trace is
drawn from its seed once and is the same for all systems and all loads, where only the clock runs faster. Load 1 is the
sequential capacity: the inverse of the mean time that plain diffusers takes for the trace's requests, which is measured
first. The model runs in a thread of its own with one torch thread; the load generator is the main thread of the same
process, which sleeps between arrivals, and how late it was is reported.

Latency counts from when a request was due, and not from when it could be handed in (no coordinated omission). A request
is in time when it takes at most 3 times what it takes alone and 100 ms; this is the deadline that `edf` goes by. The
first tenth of each replay is left out. Systems are interleaved: forward with one seed, backward with the next. A replay
is repeated when the canary before and after it differ, and marked where that does not help. A queue that is nearly full
grows with every disturbance, so what plain diffusers would do in peace is computed too, from its measured times.

    python -m benchmarks.trace_replay [--quick] [--seeds 2] [--requests 230] [--loads 0.5 0.8 0.95 1.3] [--systems fifo]
"""

import math
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import common, systems
from rich.progress import track
from rich.table import Table

from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.scheduler import POLICIES, Finished, SchedulerEvent
from omni_worker.requests import GenerationParams

SIDES = ((32, 0.7), (64, 0.3))
SLACK, GRACE = 3.0, 0.1
LEFT_OUT = 0.1
TRIES = 2
OURS = tuple(POLICIES)
COMPUTED = "diffusers, computed"
BASES = (COMPUTED, systems.DIFFUSERS, systems.PEER)
METRICS = ("mean", "p50", "p95", "p99", "slowdown", "in_time")

Alone = dict[tuple[int, int], float]
Make = Callable[[systems.Model, Callable[[SchedulerEvent], None]], Any]


def served(make: Callable[[systems.Model], tuple[Any, Any]]) -> Make:
    """A system as an engine in a thread."""

    def build(model: systems.Model, on_event: Callable[[SchedulerEvent], None]) -> Engine:
        runner, scheduler = make(model)
        return Engine(scheduler, UniProcExecutor(runner), on_event)

    return build


SYSTEMS: dict[str, Make] = {
    systems.DIFFUSERS: systems.DiffusersServer,
    systems.REQUEST_MODE: served(systems.request_mode),
    systems.PEER: served(systems.peer_mode),
    **{name: served(systems.step_mode(name)) for name in OURS},
}


@dataclass(frozen=True)
class Arrival:
    """A request of a trace. `at`: when it is due, in mean times between arrivals."""

    at: float
    params: GenerationParams

    @property
    def kind(self) -> tuple[int, int]:
        """What its time alone depends on: size and steps."""
        return self.params.width or 0, self.params.steps or 0


@dataclass(frozen=True)
class Served:
    """What became of it, in seconds; `alone`: what plain diffusers takes for it alone."""

    latency: float
    alone: float

    @property
    def in_time(self) -> bool:
        """Whether its deadline was met."""
        return self.latency <= allowed(self.alone)


def allowed(alone: float) -> float:
    """Seconds until a request's deadline."""
    return SLACK * alone + GRACE


def trace(seed: int, count: int) -> list[Arrival]:
    """The trace of a seed."""
    chance, at, arrivals = random.Random(seed), 0.0, []
    for i in range(count):
        at += chance.expovariate(1.0)
        side, steps = (chance.choices(*zip(*shares, strict=True))[0] for shares in (SIDES, systems.STEPS))
        arrivals.append(Arrival(at, systems.request(1000 * seed + i, side, steps)))
    return arrivals


def calibrate(model: systems.Model, repeats: int) -> Alone:
    """Seconds that plain diffusers takes for each kind of request."""
    times: dict[tuple[int, int], list[float]] = {}
    for i in range(repeats + 1):
        for side, _ in SIDES:
            for steps, _ in systems.STEPS:
                one = systems.request(i, side, steps)
                began = time.perf_counter()
                systems.run_diffusers(model, [one])
                if i:
                    times.setdefault((side, steps), []).append(time.perf_counter() - began)
    return {kind: statistics.median(measured) for kind, measured in times.items()}


def warm_up(model: systems.Model, most: int, count: int, alone: Alone, rate: float) -> None:
    """Prove batches of every size up to `most` and every kind, so that no system pays for it while it is measured."""
    for side, _ in SIDES:
        for size in range(2, most + 1):
            params = [systems.request(i, side, 2) for i in range(size)]
            systems.run_engine(systems.step_mode(most=size), model, params)
            systems.run_engine(systems.peer_mode, model, params)
    for name in (systems.PEER, *OURS):
        replay(SYSTEMS[name], model, trace(0, count), rate, alone)


def replay(make: Make, model: systems.Model, arrivals: Sequence[Arrival], rate: float, alone: Alone) -> dict[str, Any]:
    """Serve a trace at `rate` arrivals a second. Raises what a request failed with."""
    ends: dict[str, float] = {}
    errors: list[Exception] = []
    all_ended = threading.Event()

    def note(event: SchedulerEvent) -> None:
        if isinstance(event, Finished):
            ends[event.id] = time.monotonic()
            if event.error is not None:
                errors.append(event.error)
            if len(ends) == len(arrivals):
                all_ended.set()

    common.settle()
    proofs, beat = model.stepped.proofs, common.canary()
    server = make(model, note)
    server.start()
    began, late = time.monotonic() + 0.1, 0.0
    due = [began + arrival.at / rate for arrival in arrivals]
    for i, arrival in enumerate(arrivals):
        time.sleep(max(0.0, due[i] - time.monotonic()))
        deadline = due[i] + allowed(alone[arrival.kind])
        server.add(systems.scheduled(str(i), arrival.params, deadline))
        late = max(late, time.monotonic() - due[i])
    all_ended.wait()
    server.stop()
    if errors:
        raise errors[0]
    drift = common.canary() / beat
    counted = range(int(LEFT_OUT * len(arrivals)), len(arrivals))
    latencies = [ends[str(i)] - due[i] for i in counted]
    return {
        "latencies": latencies,
        "alone": [alone[arrivals[i].kind] for i in counted],
        "seconds": max(ends.values()) - began,
        "generator_late": late,
        "proofs": model.stepped.proofs - proofs,
        "canary_drift": drift,
        "disturbed": max(drift, 1 / drift) > common.MOST_DRIFT,
    }


def in_turn(arrivals: Sequence[Arrival], rate: float, alone: Alone) -> dict[str, Any]:
    """What a replay would give, served one after another, if each request took the time it takes alone."""
    free, latencies, times = 0.0, [], []
    for arrival in arrivals:
        free = max(free, arrival.at / rate) + alone[arrival.kind]
        latencies.append(free - arrival.at / rate)
        times.append(alone[arrival.kind])
    first = int(LEFT_OUT * len(arrivals))
    return {"latencies": latencies[first:], "alone": times[first:], "disturbed": False}


def undisturbed(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A replay; again where it was disturbed."""
    tried = [run()]
    while tried[-1]["disturbed"] and len(tried) < TRIES:
        tried.append(run())
    return {**tried[-1], "tries": len(tried)}


def summary(replays: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a cell, over all its replays; `per_seed`: of each of them."""
    every = [_metrics(replay["latencies"], replay["alone"]) for replay in replays]
    latencies, alone = ([value for replay in replays for value in replay[name]] for name in ("latencies", "alone"))
    rest = {name: [replay[name] for replay in replays] for name in replays[0] if name not in ("latencies", "alone")}
    return {"requests": len(latencies), **_metrics(latencies, alone), "per_seed": every, **rest}


def _metrics(latencies: Sequence[float], alone: Sequence[float]) -> dict[str, float]:
    served = [Served(*pair) for pair in zip(latencies, alone, strict=True)]
    return {
        "mean": statistics.fmean(latencies),
        "p50": common.quantile(latencies, 0.50),
        "p95": common.quantile(latencies, 0.95),
        "p99": common.quantile(latencies, 0.99),
        "slowdown": statistics.fmean(one.latency / one.alone for one in served),
        "in_time": statistics.fmean(one.in_time for one in served),
    }


def main() -> None:
    """Replay every trace against every system, and print the tables."""
    parser = common.parser(__doc__, "trace_replay")
    parser.add_argument("--seeds", type=int, default=2, help="how many traces")
    parser.add_argument("--requests", type=int, default=230, help="in each of them; half as many below load 0.8")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.8, 0.95, 1.3], help="of sequential capacity")
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="to replay beside diffusers and the peer's"
    )
    args = parser.parse_args()
    replayed = [name for name in SYSTEMS if name in (systems.DIFFUSERS, systems.PEER, *args.systems)]
    if args.quick:
        args.seeds, args.requests, args.loads = 1, 24, [0.95]
    common.start(args)
    before, model = common.machine(), systems.Model()
    alone = calibrate(model, 1 if args.quick else 5)
    shares = {(side, steps): a * b for side, a in SIDES for steps, b in systems.STEPS}
    capacity = 1 / math.fsum(share * alone[kind] for kind, share in shares.items())
    warm_up(model, 4 if args.quick else 32, 8 if args.quick else 60, alone, 1.3 * capacity)
    replays: dict[float, dict[str, list[dict[str, Any]]]] = {load: {} for load in args.loads}
    plan = [(seed, load) for seed in range(1, args.seeds + 1) for load in args.loads]
    for seed, load in track(plan, description="replays", console=common.console):
        arrivals = trace(seed, args.requests if load >= 0.8 else args.requests // 2)
        replays[load].setdefault(COMPUTED, []).append(in_turn(arrivals, load * capacity, alone))
        for name in replayed if seed % 2 else reversed(replayed):
            cell = undisturbed(partial(replay, SYSTEMS[name], model, arrivals, load * capacity, alone))
            replays[load].setdefault(name, []).append(cell)
    shown = [COMPUTED, *replayed]
    cells = {f"{load:g}": {name: summary(rows[name]) for name in shown} for load, rows in replays.items()}
    for rows in cells.values():
        for row in rows.values():
            row["better_than"] = {base: better(rows[base], row) for base in BASES}
    show(cells)
    figures = {
        "capacity": capacity,
        "alone": {f"{side}x{side}, {steps} steps": seconds for (side, steps), seconds in alone.items()},
        "loads": cells,
    }
    common.write(args.output, before, figures)


def better(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """By what factor a system's latencies are below those of `base`: over all requests, and the range over seeds."""
    factors = {}
    for metric in METRICS[:-1]:
        seeds = [one[metric] / other[metric] for one, other in zip(base["per_seed"], own["per_seed"], strict=True)]
        factors[metric] = {"median": base[metric] / own[metric], "low": min(seeds), "high": max(seeds)}
    return factors


def show(cells: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print a table for each load."""
    for load, rows in cells.items():
        columns = ("slowdown", "in time", "mean vs diffusers", "p99 vs diffusers", "mean vs peer", "p99 vs peer")
        table = Table("", *columns, title=f"at {load} of sequential capacity")
        for name, row in rows.items():
            factors = row["better_than"]
            table.add_row(
                name + (" (disturbed)" if any(row["disturbed"]) else ""),
                f"{row['slowdown']:.2f}",
                f"{row['in_time']:.0%}",
                *(
                    common.text(factors[base][metric])
                    for base in (systems.DIFFUSERS, systems.PEER)
                    for metric in ("mean", "p99")
                ),
            )
        common.console.print(table)


if __name__ == "__main__":
    main()
