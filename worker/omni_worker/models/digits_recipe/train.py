"""Train `builtin://digits` from nothing and replace the weights in the package: `make model`.

Two threads, fixed seeds, a budget in steps and a hard limit in time; then the saved model is loaded again and scored.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from omni_worker.models import DIGITS
from omni_worker.models.digits_recipe import scoring, teaching
from omni_worker.models.digits_recipe.architecture import build
from omni_worker.models.digits_recipe.pictures import Album
from omni_worker.models.digits_recipe.saving import save
from omni_worker.pipelines.acceleration import shorten_single_frames

SIZES = (32, 64)
AUTOENCODER = teaching.Lesson(steps=500, seconds=240, peak_rate=4e-3, warmup=30)
PAINTER = teaching.Lesson(steps=1800, seconds=600, peak_rate=5e-3, warmup=50)


def main() -> int:
    """Train, save, score; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=DIGITS, help="the folder to replace (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    pipeline = build()
    shorten_single_frames(pipeline.vae)
    albums = [Album(size, options.seed) for size in SIZES]
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, refresh_per_second=2) as progress:
        teaching.teach_autoencoder(pipeline, albums, AUTOENCODER, reporter(progress, "autoencoder", AUTOENCODER.steps))
        pools = teaching.latents_of(pipeline, albums)
        painter = reporter(progress, "painter", PAINTER.steps)
        teaching.teach_painter(pipeline, pools, PAINTER, options.seed, painter)
    save(pipeline, options.output)
    print(
        f"saved to {options.output} after {(time.monotonic() - started) / 60:.1f} minutes; scoring 200 pictures a size"
    )
    saved = scoring.load(options.output)
    for size in SIZES:
        print(f"{size}x{size}, 4 steps, guidance 2: {scoring.score(saved, size=size)}")
    return 0


def reporter(progress: Progress, name: str, total: int) -> teaching.Report:
    """A line of progress with the loss, smoothed, and the time left; a plain line now and then without a terminal."""
    task = progress.add_task(name, total=total, loss=0.0)
    started = time.monotonic()
    smooth = 0.0

    def report(step: int, loss: float) -> None:
        nonlocal smooth
        weight = max(0.02, 1 / step)
        smooth += weight * (loss - smooth)
        progress.update(task, completed=step, loss=smooth)
        if not progress.console.is_terminal and step % 100 == 0:
            left = (time.monotonic() - started) / step * (total - step)
            print(f"{name}: step {step} of {total}, loss {smooth:.4f}, {left:.0f} s left", flush=True)

    return report


if __name__ == "__main__":
    sys.exit(main())
