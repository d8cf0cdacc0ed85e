"""What every benchmark shares: a steady start, the canary that finds disturbed measurements, ratios, results as JSON.

Absolute times on a shared machine mean nothing, so what is compared runs in turn within one process: a sweep is all
systems forward, the next one all of them backward, and a ratio is of two measurements of one sweep. A pair is rejected
when the machine was not as fast before and after both of its halves, or when a half did not have its core to itself.
"""

import argparse
import gc
import json
import logging
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "diffusers", "transformers", "greenlet", "numpy")
CHANGING = ("load_average", "canary_ms")
MOST_DRIFT = 1.10
LEAST_SHARE = 0.95
EXTRA_SWEEPS = 2

console = Console(width=150)


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """A benchmark's command line: `--quick`, `--core` and `--output`, to which it adds its own."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="few and small cells, to see that it runs; no figures")
    made.add_argument("--core", type=int, default=(os.cpu_count() or 1) - 1, help="the core to stay on; -1: any")
    made.add_argument("--output", type=Path, default=RESULTS / f"{name}.json", help="where to write the figures")
    return made


def start(args: argparse.Namespace) -> None:
    """Make this process steady: one torch thread, one core, and what is loaded so far no work for the collector.

    A quick run stays on no core, because nobody reads its figures.
    """
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if args.core >= 0 and not args.quick and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {args.core})
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    logging.getLogger("omni_worker").setLevel(logging.ERROR)
    settle()


def settle() -> None:
    """Leave all that lives now out of later garbage collections."""
    gc.collect()
    gc.freeze()


def canary() -> float:
    """Seconds that a fixed piece of work takes: the least of five, so that one interruption does not count."""
    return min(_spin() for _ in range(5))


def _spin() -> float:
    began = time.perf_counter()
    total = 0
    for i in range(60_000):
        total += i * i
    return time.perf_counter() - began


@dataclass(frozen=True)
class Timed:
    """One measurement. `share`: of its core that this process had; `beats`: the canary before and after."""

    seconds: float
    share: float
    beats: tuple[float, float]

    @classmethod
    def of(cls, call: Callable[[], Any]) -> "Timed":
        """Measure a call that keeps its core busy."""
        before = canary()
        used, began = time.process_time(), time.perf_counter()
        call()
        seconds, used = time.perf_counter() - began, time.process_time() - used
        return cls(seconds, used / seconds, (before, canary()))

    def is_comparable(self, other: "Timed") -> bool:
        """Whether neither was disturbed."""
        beats = (*self.beats, *other.beats)
        return max(beats) <= MOST_DRIFT * min(beats) and min(self.share, other.share) >= LEAST_SHARE


@dataclass
class Paired:
    """The measurements of one system against the baseline's of the same sweeps; a ratio above 1 is faster than it."""

    ratios: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, own: Timed, base: Timed) -> None:
        """Take a pair, or reject it."""
        kept = self.ratios if own.is_comparable(base) else self.rejected
        kept.append(base.seconds / own.seconds)
        self.seconds.append(own.seconds)

    def figures(self) -> dict[str, Any]:
        """For the JSON. Where all pairs were disturbed they are reported, and said to be."""
        used = self.ratios or self.rejected
        return {
            **spread(used),
            "ratios": used,
            "pairs_rejected": len(self.rejected),
            "disturbed": not self.ratios,
            "seconds": self.seconds,
        }


def compare(systems: Mapping[str, Callable[[], Any]], sweeps: int) -> dict[str, Paired]:
    """Run all systems in turn until each has `sweeps` good pairs with the first, or a few more were not enough.

    A single sweep is never repeated: it only shows that the systems run.
    """
    names = list(systems)
    baseline, pairs = names[0], {name: Paired() for name in names}
    for sweep in range(sweeps + EXTRA_SWEEPS if sweeps > 1 else 1):
        if sweep >= sweeps and all(len(pair.ratios) >= sweeps for pair in pairs.values()):
            break
        order = names if sweep % 2 == 0 else names[::-1]
        times = {name: Timed.of(systems[name]) for name in order}
        for name, pair in pairs.items():
            pair.add(times[name], times[baseline])
    return pairs


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, and the range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def text(figures: Mapping[str, Any], unit: str = "x", digits: int = 2) -> str:
    """A median with its range, for a table; marked where it was disturbed."""
    low, high = f"{figures['low']:.{digits}f}", f"{figures['high']:.{digits}f}"
    mark = " (disturbed)" if figures.get("disturbed") else ""
    return f"{figures['median']:.{digits}f}{unit} [{low}..{high}]{mark}"


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """How much y grows with x, by least squares."""
    middle = sum(x for x, _ in points) / len(points)
    weight = sum((x - middle) ** 2 for x, _ in points)
    return sum((x - middle) * y for x, y in points) / weight if weight else 0.0


def machine() -> dict[str, Any]:
    """What the figures were measured on, and from which sources."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_used": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "torch_threads": torch.get_num_threads(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "canary_ms": canary() * 1e3,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "sources": _sources(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _sources() -> str:
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return asked.stdout.strip()


def write(path: Path, before: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Write the figures, with the machine as it was `before`; lists of numbers take one line each."""
    after = {name: value for name, value in machine().items() if name in CHANGING}
    document = {"machine": before, "machine_after": after, **figures}
    packed = re.sub(r"\[\s+[-\d.,e\s]+?\]", _on_one_line, json.dumps(_rounded(document), indent=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(packed + "\n")
    console.print(f"written: {path}")


def _on_one_line(found: re.Match[str]) -> str:
    return "[" + " ".join(found[0].strip("[]").split()) + "]"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
