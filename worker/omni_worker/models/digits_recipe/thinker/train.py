"""Train the thinker of `builtin://digits` from nothing, and put it beside the painter in the package.

Fixed seeds and a budget in steps; then the saved thinker is loaded again and scored on sums it has never met.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from omni_worker.models import DIGITS
from omni_worker.models.digits_reader import read
from omni_worker.models.digits_recipe import scoring as painting
from omni_worker.models.digits_recipe.progress import progress_display, reporter
from omni_worker.models.digits_recipe.thinker import architecture, scoring
from omni_worker.models.digits_recipe.thinker.rows import desired_rows
from omni_worker.models.digits_recipe.thinker.saving import save
from omni_worker.models.digits_recipe.thinker.teaching import teach

ROWS_STEPS = 600
THINKER_STEPS = 2000
SIZES = (32, 64)
ANSWERS = 2000
PICTURES = 200


def main() -> int:
    """Train, save, score; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--painter", type=Path, default=DIGITS, help="the folder to add to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model, tokenizer = architecture.thinker(), architecture.tokenizer()
    painter = painting.load(options.painter)
    scale = painter.text_encoder.model.language_model.norm.weight.detach()
    with progress_display() as progress:
        desired = desired_rows(painter, ROWS_STEPS, options.seed, reporter(progress, "rows", ROWS_STEPS))
        report = reporter(progress, "thinker", THINKER_STEPS)
        teach(model, tokenizer, desired, scale, THINKER_STEPS, options.seed, report)
    save(model, tokenizer, options.painter)
    print(f"saved to {options.painter} after {(time.monotonic() - started) / 60:.1f} minutes")
    report_scores(options.painter)
    return 0


def report_scores(folder: Path) -> None:
    """Ask the saved thinker about held-out sums, and have the saved painter paint its answers both ways."""
    thinker, painter = scoring.load(folder), painting.load(folder)
    questions, prompts = scoring.exam(ANSWERS, seed=1)
    answers = thinker.answers(prompts)
    print(f"{ANSWERS} questions about held-out sums: {scoring.share_right(questions, answers):.1%} right")
    requests = [question.request for question in questions[:PICTURES]]
    texts = [answer.text for answer in answers[:PICTURES]]
    states = [answer.states for answer in answers[:PICTURES]]
    for size in SIZES:
        by_text = painting.grade(requests, [read(picture) for picture in painting.paint(painter, texts, size)])
        by_states = painting.grade(requests, [read(picture) for picture in scoring.paint_states(painter, states, size)])
        print(f"{size}x{size}, {PICTURES} pictures, by text:   {by_text}")
        print(f"{size}x{size}, {PICTURES} pictures, by states: {by_states}")


if __name__ == "__main__":
    sys.exit(main())
