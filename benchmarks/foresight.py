"""What it gives to foresee the second call of a step with guidance: a few requests of 20 steps, all there at the
beginning, as a replica serves them, against the same without. Both share one model, one process and one torch thread.

    python -m benchmarks.foresight [--quick] [--sweeps 3]
"""

from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
from benchmarks import common, systems
from rich.progress import track
from rich.table import Table

from omni_worker.pipelines.interception.speculation import Speculation
from omni_worker.pipelines.interception.stepping import MAX_SPECULATING_REQUESTS
from omni_worker.requests import GenerationParams

SIDES = {"16 tokens": 32, "64 tokens": 64, "256 tokens": 128, "1024 tokens": 256}
COUNTS = (2, 3, MAX_SPECULATING_REQUESTS)
STEPS, STEPS_OF_LARGE = 20, 4


def without(model: systems.Model, params: list[GenerationParams]) -> list[np.ndarray]:
    """The requests' pictures; every call is run when it is made."""
    with patch.object(Speculation, "predict_calls", lambda *_: []):
        return systems.run_engine(systems.step_mode(), model, params)


def measure(model: systems.Model, side: int, count: int, steps: int, sweeps: int) -> dict[str, Any]:
    """The ratio of a cell, and by how many levels its pictures differ."""
    params = [systems.request(i, side, steps) for i in range(count)]
    runs = {
        "without": partial(without, model, params),
        "with": partial(systems.run_engine, systems.step_mode(), model, params),
    }
    pictures = {name: [run() for _ in range(2)][-1] for name, run in runs.items()}  # warms up, and proves the batches
    found = common.compare(runs, sweeps)["with"].figures()
    return {**found, "levels": systems.levels(pictures["without"], pictures["with"])}


def main() -> None:
    """Measure every cell and print the table."""
    parser = common.parser(__doc__, "foresight")
    parser.add_argument("--sweeps", type=int, default=3, help="good pairs wanted of each cell")
    args = parser.parse_args()
    common.start(args)
    before, model = common.machine(), systems.Model()
    sides, counts, sweeps = ({"16 tokens": 32}, COUNTS[:1], 1) if args.quick else (SIDES, COUNTS, args.sweeps)

    def steps(side: int) -> int:
        return STEPS_OF_LARGE if args.quick or side == max(SIDES.values()) else STEPS

    cells = {
        name: {str(count): measure(model, side, count, steps(side), sweeps) for count in counts}
        for name, side in track(sides.items(), description="sizes", console=common.console)
    }
    table = Table("", *(f"{count} requests" for count in counts), title="requests per second, without foresight = 1")
    for name, row in cells.items():
        table.add_row(name, *(common.text(cell) for cell in row.values()))
    common.console.print(table)
    if not args.quick:
        common.write(args.output, before, {"cells": cells})


if __name__ == "__main__":
    main()
