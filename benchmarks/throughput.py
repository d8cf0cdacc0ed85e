"""Throughput of one replica against plain diffusers, at 16, 64, 256 and 1024 image tokens, as ratios within one run.

A closed batch of requests with mixed step counts (4, 20 and 50 in the ratio 50 : 35 : 15), all there at the beginning.
Baseline: `pipe(...)`, one request after another. The picture of every request is compared with the baseline's: a cell
whose pictures differ by more than two of 255 levels is marked. 48 requests; to keep the run short only 16 of 4 and 20
steps at 256 tokens, and 6 of 4 steps at 1024. A batch that was proven while it was measured is counted (`proofs`).

    python -m benchmarks.throughput [--quick]
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import common, systems
from rich.progress import track
from rich.table import Table

from omni_worker.requests import GenerationParams

MOST_LEVELS = 2
SYSTEMS = {
    systems.REQUEST_MODE: systems.request_mode,
    systems.PEER: systems.peer_mode,
    "ours, at most 8": systems.step_mode(most=8),
    "ours, at most 16": systems.step_mode(most=16),
    "ours, as served": systems.step_mode(),
}
SHORT = ((4, 0.7), (20, 0.3))
CELLS: dict[str, Callable[[], list[GenerationParams]]] = {
    "16 tokens": lambda: systems.mixed(48, [32]),
    "16 tokens, no guidance": lambda: systems.unguided(systems.mixed(48, [32])),
    "64 tokens": lambda: systems.mixed(48, [64]),
    "16 and 64 tokens": lambda: systems.mixed(48, [32, 64]),
    "256 tokens": lambda: systems.mixed(16, [128], SHORT),
    "1024 tokens": lambda: systems.mixed(6, [256], ((4, 1.0),)),
}
QUICK = {
    "16 tokens": lambda: systems.mixed(12, [32], SHORT),
    "16 and 64 tokens": lambda: systems.mixed(8, [32, 64], SHORT),
}


def main() -> None:
    """Measure every cell and print the table."""
    parser = common.parser(__doc__, "throughput")
    parser.add_argument("--sweeps", type=int, default=2, help="good pairs wanted of each system and cell")
    args = parser.parse_args()
    common.start(args)
    before, model = common.machine(), systems.Model()
    common.settle()
    cells = QUICK if args.quick else CELLS
    figures = {}
    for cell in track(cells, description="cells", console=common.console):
        params = cells[cell]()
        runs = {systems.DIFFUSERS: partial(systems.run_diffusers, model, params)} | {
            name: partial(systems.run_engine, make, model, params) for name, make in SYSTEMS.items()
        }
        pictures = {name: run() for name, run in runs.items()}  # warms up, and proves the batches
        proofs = model.stepped.proofs
        pairs = common.compare(runs, args.sweeps)
        figures[cell] = {
            "requests": len(params),
            "steps": sum(one.steps or 0 for one in params),
            "proofs": model.stepped.proofs - proofs,
            "systems": {
                name: {**pair.figures(), "levels": systems.levels(pictures[systems.DIFFUSERS], pictures[name])}
                for name, pair in pairs.items()
            },
        }
    show(figures)
    common.write(args.output, before, {"cells": figures})


def show(figures: dict[str, dict[str, Any]]) -> None:
    """Print the ratios."""
    table = Table(title="requests per second, plain diffusers = 1")
    table.add_column("")
    for name in SYSTEMS:
        table.add_column(name, justify="right")
    for cell, measured in figures.items():
        row = (measured["systems"][name] for name in SYSTEMS)
        table.add_row(cell, *(common.text(one) + _mark(one) for one in row))
    common.console.print(table)


def _mark(figures: dict[str, Any]) -> str:
    return f" DIFFERS by {figures['levels']}" if figures["levels"] > MOST_LEVELS else ""


if __name__ == "__main__":
    main()
