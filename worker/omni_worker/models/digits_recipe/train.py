"""Train `builtin://digits` from nothing and replace the weights in the package: `make model`.

Two threads, fixed seeds, a budget in steps and a hard limit in time; then the saved model is loaded again and scored.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from omni_worker.models import DIGITS
from omni_worker.models.digits_recipe import scoring, teaching
from omni_worker.models.digits_recipe.architecture import build
from omni_worker.models.digits_recipe.pictures import Album
from omni_worker.models.digits_recipe.progress import progress_display, reporter
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
    with progress_display() as progress:
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


if __name__ == "__main__":
    sys.exit(main())
