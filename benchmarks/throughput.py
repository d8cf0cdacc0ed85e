"""Throughput of the engine against diffusers' own loop, as ratios within one process.

24 requests a cell, closed batch, the built-in model. Baseline: `pipe(...)`, one request after another. Rows: the engine
one request at a time, with up to 8 and 16 together, and as it is served by default. The cells are interleaved (forward
and backward, `--repeats` times), and the median of the paired ratios is reported with its range, since an absolute time
on a shared machine means nothing. Pictures are compared too: a cell whose pictures differ by more than two levels is
marked.

    python benchmarks/throughput.py [--repeats 3] [--output benchmarks/results/throughput.json]
"""

import argparse
import json
import os
import platform
import queue
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from omni_worker import model_source
from omni_worker.config import AUTO_MAX_NUM_SEQS
from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.runner.diffusion import StepRunner
from omni_worker.engine.scheduler import Finished, SchedulerRequest, StepScheduler
from omni_worker.pipelines.loading import load
from omni_worker.pipelines.protocol import to_uint8
from omni_worker.requests import GenerationParams

REQUESTS = 24
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STEPS = (4,) * 8 + (20,) * 6 + (50,) * 2
CELLS = {
    "32x32, mixed steps": lambda i: (32, STEPS[i % len(STEPS)]),
    "64x64, mixed steps": lambda i: (64, STEPS[i % len(STEPS)]),
    "both sizes, mixed steps": lambda i: ((32, 64)[i % 2], STEPS[i % len(STEPS)]),
    "128x128, 4 steps": lambda i: (128, 4),
}
BATCHES = (1, 8, 16, None)


def requests_of(cell: str) -> list[GenerationParams]:
    shapes = [CELLS[cell](i) for i in range(REQUESTS)]
    return [
        GenerationParams(
            prompt=f"a red {WORDS[i % 10]} on black background", seed=i, width=side, height=side, steps=steps
        )
        for i, (side, steps) in enumerate(shapes)
    ]


def baseline(pipeline, params: list[GenerationParams]) -> list[np.ndarray]:
    """diffusers' own call, one request after another."""
    with torch.no_grad():
        return [to_uint8(pipeline._pipe(**pipeline._arguments.build(one)).images)[0] for one in params]


def engine(pipeline, params: list[GenerationParams], batch: int | None) -> list[np.ndarray]:
    """The engine with at most `batch` requests together; None as it is served by default, finding the size itself."""
    events: queue.Queue = queue.Queue()
    scheduler = StepScheduler(AUTO_MAX_NUM_SEQS, find_batch_size=True) if batch is None else StepScheduler(batch)
    running = Engine(scheduler, UniProcExecutor(StepRunner(pipeline)), events.put)
    for i, one in enumerate(params):
        running.submit(SchedulerRequest(str(i), one))
    running.start()
    pictures: dict[str, np.ndarray] = {}
    while len(pictures) < len(params):
        event = events.get(timeout=600)
        if isinstance(event, Finished):
            if event.error:
                raise event.error
            pictures[event.id] = event.result.images[0]
    running.stop()
    return [pictures[str(i)] for i in range(len(params))]


def main() -> None:
    """Measure every cell and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="times each cell is run forward and backward")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipeline = load(model_source.parse("builtin://digits"), step_execution=True).pipeline
    rows = {"diffusers": lambda params: baseline(pipeline, params)} | {
        f"engine, {f'up to {batch}' if batch else 'auto'}": lambda params, batch=batch: engine(pipeline, params, batch)
        for batch in BATCHES
    }
    order = [name for _ in range(args.repeats) for names in (list(rows), list(rows)[::-1]) for name in names]
    figures: dict[str, dict] = {}
    for cell in CELLS:
        params = requests_of(cell)
        pictures = {name: run(params) for name, run in rows.items()}  # warms up, and proves the keys
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        for name in track(order, description=cell):
            began = time.perf_counter()
            rows[name](params)
            seconds[name].append(time.perf_counter() - began)
        figures[cell] = {
            name: {
                "ratios": [base / own for base, own in zip(seconds["diffusers"], seconds[name], strict=True)],
                "levels": max(
                    int(np.abs(a.astype(int) - b.astype(int)).max())
                    for a, b in zip(pictures["diffusers"], pictures[name], strict=True)
                ),
            }
            for name in rows
        }
    show(figures)
    if args.output:
        machine = {
            "cores": os.cpu_count(), "threads": args.threads, "machine": platform.machine(),
            "load": os.getloadavg(), "python": platform.python_version(),
            "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        }  # fmt: skip
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"machine": machine, "cells": figures}, indent=1) + "\n")


def show(figures: dict[str, dict]) -> None:
    table = Table(title=f"requests per second against diffusers' own loop ({REQUESTS} requests a cell)")
    table.add_column("")
    for name in next(iter(figures.values())):
        table.add_column(name, justify="right")
    for cell, row in figures.items():
        texts = []
        for name, measured in row.items():
            ratios = measured["ratios"]
            text = f"{statistics.median(ratios):.2f}x"
            if name != "diffusers":
                text += f" [{min(ratios):.2f}..{max(ratios):.2f}]"
            texts.append(text + (f" DIFFERS by {measured['levels']}" if measured["levels"] > 2 else ""))
        table.add_row(cell, *texts)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
