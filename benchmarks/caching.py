"""The modes of `cache`: the speed that they give, and how near the images stay to those of the same requests without.

    python -m benchmarks.caching [--quick] [--sweeps 3] [--images 20]

The speed is that of the processor time that the requests take, because the machine is shared: one after another, and
all at once. Requests that skip share batches then; those with one of diffusers' caches run alone.

Two sizes of the built-in model: as it is, and with eight more blocks that take their time and change nothing, so that
both make the same images. MagCache gets ratios that are measured on the model first.
"""

import contextlib
import copy
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks import common, systems
from diffusers import MagCacheConfig
from msgspec.structs import replace
from rich.progress import track
from rich.table import Table
from scipy.ndimage import gaussian_filter

from omni_worker.models.digits_reader import read
from omni_worker.requests import NO_CACHE, CacheSettings, GenerationParams

SIDE, REQUESTS, MORE_BLOCKS = 32, 6, 8
STEPS, QUICK_STEPS = (20, 50), (8,)
CACHES = {
    **{f"skip, tolerance {one:g}": CacheSettings(tolerance=one) for one in (0.05, CacheSettings().tolerance, 0.2)},
    **{f"first-block, threshold {one:g}": CacheSettings(mode="first-block", threshold=one) for one in (0.1, 0.2)},
    **{f"taylor-seer, interval {one}": CacheSettings(mode="taylor-seer", interval=one) for one in (3, 5)},
    "mag, threshold 0.06": CacheSettings(mode="mag"),
    "faster, interval 2": CacheSettings(mode="faster"),
    "pyramid-attention, interval 2": CacheSettings(mode="pyramid-attention"),
}
QUICK_CACHES = dict(list(CACHES.items())[1::2])
SMALL, LARGE = "4 blocks", f"{4 + MORE_BLOCKS} blocks"

Run = Callable[[], list[np.ndarray]]


def deepen(pipe: Any) -> None:
    """Add blocks to the denoiser that pass on what they get: their gates are zero."""
    blocks = pipe.transformer.transformer_blocks
    for i in range(MORE_BLOCKS):
        block = copy.deepcopy(blocks[i % 4])
        for modulation in (block.img_mod, block.txt_mod):
            for parameter in modulation.parameters():
                torch.nn.init.zeros_(parameter)
        blocks.append(block)


def requests(count: int, steps: int, cache: CacheSettings = NO_CACHE) -> list[GenerationParams]:
    """Requests for every digit in turn, whose prompts say all that the reader reads."""
    return [
        replace(
            systems.request(i, SIDE, steps),
            prompt=f"a {systems.COLOURS[i % 4]} {systems.WORDS[i % 10]} on {systems.BACKGROUNDS[i % 2]} background",
            cache=cache,
        )
        for i in range(count)
    ]


def compare(runs: Mapping[str, Run], sweeps: int) -> dict[str, Any]:
    """How many times the processor time of each run the first one takes, in turn, forward and backward."""
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    for sweep in range(sweeps):
        seconds: dict[str, float] = {}
        for name in list(runs)[:: 1 if sweep % 2 == 0 else -1]:
            began = time.process_time()
            runs[name]()
            seconds[name] = time.process_time() - began
        for name in runs:
            ratios[name].append(seconds[next(iter(runs))] / seconds[name])
    return {name: {**common.spread(found), "ratios": found} for name, found in ratios.items()}


def quality(images: Sequence[np.ndarray], plain: Sequence[np.ndarray]) -> dict[str, float]:
    """How near images are to those without a cache: in decibels over all of them and at worst, and as mean SSIM. And
    how many are read as something else."""
    pairs = list(zip(images, plain, strict=True))
    errors = [float(np.square((one.astype(float) - other) / 255).mean()) for one, other in pairs]
    return {
        "psnr": decibels(float(np.mean(errors))),
        "psnr_worst": decibels(max(errors)),
        "ssim": float(np.mean([ssim(one, other) for one, other in pairs])),
        "misread": sum(read(one) != read(other) for one, other in pairs),
    }


def decibels(error: float) -> float:
    """Peak signal-to-noise ratio of values from 0 to 1 with this mean square error."""
    return float(-10 * np.log10(max(error, 1e-10)))


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004) with a Gaussian window of 1.5 pixels."""
    blur = partial(gaussian_filter, sigma=(1.5, 1.5, 0), truncate=3.5)
    a, b = one.astype(float) / 255, other.astype(float) / 255
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, covariance = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    return float((luminance * (2 * covariance + 0.03**2) / (var_a + var_b + 0.03**2)).mean())


def magnitudes(model: systems.Model, steps: int) -> tuple[float, ...]:
    """How the residual's magnitude changes from step to step, as diffusers' calibration prints it."""
    transformer, printed = model.pipe.transformer, io.StringIO()
    transformer.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=steps))
    try:
        with contextlib.redirect_stdout(printed):
            systems.run_diffusers(model, requests(1, steps))
    finally:
        transformer.disable_cache()
    return tuple(json.loads(next(line for line in printed.getvalue().splitlines() if line.startswith("[1.0"))))


def measure(
    model: systems.Model, caches: Mapping[str, CacheSettings], steps: int, images: int, sweeps: int
) -> dict[str, Any]:
    """Speed and quality of every setting: requests one after another, and all at once."""
    alone, together = systems.step_mode(most=1), systems.step_mode()
    ratios, count = magnitudes(model, steps), min(REQUESTS, images)
    settings = {name: replace(one, ratios=ratios) if one.mode == "mag" else one for name, one in caches.items()}
    settings = {"none": NO_CACHE, **settings}
    made: dict[str, list[np.ndarray]] = {}
    shares: dict[str, float] = {}
    for name, cache in settings.items():
        before = model.stepped.stats()["calls_skipped"]
        made[name] = systems.run_engine(together, model, requests(images, steps, cache))
        shares[name] = 1 - (model.stepped.stats()["calls_skipped"] - before) / (2 * steps * images)

    def runs(make: Any) -> dict[str, Run]:
        return {
            name: partial(systems.run_engine, make, model, requests(count, steps, cache))
            for name, cache in settings.items()
        }

    for run in runs(together).values():  # proves the batches
        run()
    one_by_one, at_once = (compare(runs(make), sweeps) for make in (alone, together))
    return {
        name: {
            "alone": one_by_one[name],
            "together": at_once[name],
            "computed": shares[name],
            **quality(made[name], made["none"]),
        }
        for name in caches
    }


def main() -> None:
    """Measure every cell and print the table."""
    parser = common.parser(__doc__, "caching")
    parser.add_argument("--sweeps", type=int, default=3, help="pairs of each cell")
    parser.add_argument("--images", type=int, default=20, help="images that are compared with those without a cache")
    args = parser.parse_args()
    common.start(args)
    before = common.machine()
    steps, sweeps, images = (QUICK_STEPS, 1, 2) if args.quick else (STEPS, args.sweeps, args.images)
    cells: dict[str, Any] = {}
    columns = ("calls computed", "alone", "together", "PSNR (worst)", "SSIM", "misread")
    table = Table("", "", *columns, title="requests per second of processor time, without a cache = 1")
    sizes = {SMALL: None} if args.quick else {SMALL: None, LARGE: deepen}
    for size, around in track(sizes.items(), description="sizes", console=common.console):
        model = systems.Model(around)
        for count in steps:
            name = f"{size}, {count} steps"
            cells[name] = measure(model, QUICK_CACHES if args.quick else CACHES, count, images, sweeps)
            for setting, row in cells[name].items():
                add_row(table, name, setting, row)
            if not args.quick:
                common.write(
                    args.output, before, {"side": SIDE, "requests": REQUESTS, "images": images, "cells": cells}
                )
    common.console.print(table)


def add_row(table: Table, name: str, setting: str, row: dict[str, Any]) -> None:
    """A row of the table, for one setting."""
    table.add_row(
        name, setting, f"{row['computed']:.2f}", common.text(row["alone"]), common.text(row["together"]),
        f"{row['psnr']:.1f} dB ({row['psnr_worst']:.1f})", f"{row['ssim']:.4f}", str(row["misread"]),
    )  # fmt: skip


if __name__ == "__main__":
    main()
