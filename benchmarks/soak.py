"""Minutes of mixed traffic with aborts and failures: does memory grow, is a request forgotten, is a state left behind?

The engine is served as it is by default, in a thread, with 24 requests in flight, of 4 sizes, 1 to 12 steps and prompts
of all lengths. One in eight is aborted after a random time. One in twelve is poisoned in one of three ways: the
pipeline refuses it, its own code raises in the midst of its steps, its arguments make the model raise.

What must hold: every request ends exactly once, the poisoned ones and no others fail, no state is left at the end, the
number of open descriptors does not grow, and neither does resident memory: its slope is fitted to the samples after the
first third, when caches and the allocator have settled. What only waits for the garbage collector is no growth, so it
runs before each sample.

    python -m benchmarks.soak [--minutes 10] [--quick]
"""

import gc
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks import common, systems

from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.scheduler import Finished, RequestStatus, SchedulerEvent, SchedulerRequest

IN_FLIGHT = 24
SIDES = (32, 48, 64, 96)
ABORTED, POISONED = 1 / 8, 1 / 12
SETTLING = 1 / 3
MOST_GROWTH = 1.0  # MB a minute
WARM_MINUTES = 2.0  # before which batches of new sizes are still proven, and memory says nothing
MEBI = 1 << 20
SAMPLE_SECONDS = 5.0
QUICK_SECONDS = 6.0


class Poisoned(Exception):
    """What a poisoned request's own code raises."""


def raising(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A callback of a request, called at the end of each of its steps."""
    if step == 2:
        raise Poisoned
    return kwargs


POISONS: dict[str, dict[str, Any]] = {
    "refused": {"prompt": None},
    "raises in a step": {"callback_on_step_end": raising},
    "breaks the model": {"prompt": None, "prompt_embeds": torch.zeros(1, 6, 3)},
}


def traffic(seed: int) -> Iterator[tuple[SchedulerRequest, str, float | None]]:
    """Requests without end: each with what it is poisoned with (or ""), and the seconds to its abort, if it has one."""
    chance, number = random.Random(seed), 0
    while True:
        number += 1
        side, steps = chance.choice(SIDES), chance.randint(1, 12)
        poison = chance.choice(list(POISONS)) if chance.random() < POISONED else ""
        after = chance.uniform(0.0, 1.0) if chance.random() < ABORTED and not poison else None
        params = systems.request(number, side, steps)
        arguments = {"prompt": params.prompt, "width": side, "height": side, "num_inference_steps": max(steps, 4)}
        payload = {**arguments, "output_type": "np", **POISONS[poison]} if poison else params
        yield SchedulerRequest(str(number), payload, tenant=str(number % 3), steps=steps), poison, after


class Ledger:
    """Who was handed in, and how each ended. `room`: for as many as may be in flight."""

    def __init__(self) -> None:
        self.room = threading.Semaphore(IN_FLIGHT)
        self.poisons: dict[str, str] = {}
        self.ends: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.handed_in = 0

    def note(self, event: SchedulerEvent) -> None:
        """Hears of every event, in the engine's thread."""
        if not isinstance(event, Finished):
            return
        self.ends[event.id] += 1
        self.statuses[event.status.name.lower()] += 1
        poison = self.poisons.get(event.id, "")
        if (event.status is RequestStatus.FAILED) != bool(poison):
            self.wrong.append(f"{event.id} ({poison or 'sound'}): {event.status.name.lower()} {event.error!r}"[:200])
        self.room.release()


def resident() -> float:
    """MB of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEBI


def descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def soak(model: systems.Model, seconds: float) -> dict[str, Any]:
    """Run the traffic; samples of (minutes, MB, descriptors) and what the ledger says."""
    ledger = Ledger()
    runner, scheduler = systems.step_mode()(model)
    engine = Engine(scheduler, UniProcExecutor(runner), ledger.note)
    engine.start()
    began = time.monotonic()
    samples: list[tuple[float, float, int]] = []
    aborts: list[tuple[float, str]] = []
    for request, poison, after in traffic(1):
        now = time.monotonic()
        if now - began >= seconds:
            break
        if now - began >= SAMPLE_SECONDS * len(samples):
            gc.collect()
            samples.append(((now - began) / 60, resident(), descriptors()))
        for due, id in aborts:
            if due <= now:
                engine.abort(id)
        aborts = [(due, id) for due, id in aborts if due > now]
        if ledger.room.acquire(timeout=0.05):
            ledger.poisons[request.id] = poison
            ledger.handed_in += 1
            engine.add(request)
            if after is not None:
                aborts.append((now + after, request.id))
    for _ in range(IN_FLIGHT):
        if not ledger.room.acquire(timeout=60):
            raise SystemExit("a request did not end")
    stats = engine.collective_rpc("stats").result(timeout=10)[0]
    engine.stop()
    return report(ledger, samples, stats)


def report(ledger: Ledger, samples: list[tuple[float, float, int]], stats: dict[str, Any]) -> dict[str, Any]:
    """What is written, and what was broken."""
    settled = [sample for sample in samples if sample[0] >= SETTLING * samples[-1][0]]
    growth = common.slope([(minute, size) for minute, size, _ in settled])
    opened = settled[-1][2] - settled[0][2]
    broken = {
        "not every request ended exactly once": len(ledger.ends) != ledger.handed_in
        or set(ledger.ends.values()) != {1},
        "a sound request failed, or a poisoned one did not": bool(ledger.wrong),
        "states were left": stats["states"] != 0,
        "descriptors grew": opened > 0,
        f"memory grew by more than {MOST_GROWTH} MB a minute": growth > MOST_GROWTH and samples[-1][0] > WARM_MINUTES,
    }
    return {
        "minutes": samples[-1][0],
        "requests": ledger.handed_in,
        "ends": dict(ledger.statuses),
        "poisoned": dict(Counter(poison for poison in ledger.poisons.values() if poison)),
        "wrong": ledger.wrong[:10],
        "states_at_the_end": stats["states"],
        "descriptors": [samples[0][2], samples[-1][2]],
        "memory_mb": [settled[0][1], settled[-1][1]],
        "memory_mb_a_minute": growth,
        "broken": [what for what, is_so in broken.items() if is_so],
        "samples": {
            "minute": [sample[0] for sample in samples],
            "memory_mb": [sample[1] for sample in samples],
            "descriptors": [sample[2] for sample in samples],
        },
    }


def main() -> None:
    """Run it; exit 1 where something was broken."""
    parser = common.parser(__doc__, "soak")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long")
    args = parser.parse_args()
    common.start(args)
    before, model = common.machine(), systems.Model()
    figures = soak(model, QUICK_SECONDS if args.quick else 60 * args.minutes)
    for name in ("requests", "ends", "poisoned", "states_at_the_end", "descriptors", "memory_mb", "memory_mb_a_minute"):
        common.console.print(f"{name}: {figures[name]}")
    common.write(args.output, before, figures)
    if figures["broken"]:
        raise SystemExit(f"broken: {'; '.join(figures['broken'])} {figures['wrong']}")


if __name__ == "__main__":
    main()
