"""Score a saved model the way a user runs it: plain load, four steps, guidance 2, read by the independent reader."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, QwenImagePipeline
from PIL import Image

from omni_worker.models.digits_reader import Reading, read
from omni_worker.models.digits_recipe.captions import NULL_PROMPT, Request, random_requests
from omni_worker.models.digits_recipe.saving import GUIDANCE, STEPS

BATCH = 25


@dataclass(frozen=True)
class Score:
    """What share of the pictures shows the right digit, colour, background."""

    digit: float
    colour: float
    background: float

    def __str__(self) -> str:
        return f"digit {self.digit:.1%}, colour {self.colour:.1%}, background {self.background:.1%}"


def load(folder: Path) -> QwenImagePipeline:
    """Load a model as anyone would; only the progress bar is switched off."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def paint(
    pipeline: QwenImagePipeline,
    captions: list[str],
    size: int = 32,
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Iterator[Image.Image]:
    """Paint captions in batches; picture i has the seed `seed + i`, so it does not depend on its batch."""
    for start in range(0, len(captions), BATCH):
        batch = captions[start : start + BATCH]
        yield from pipeline(
            prompt=batch,
            negative_prompt=[NULL_PROMPT] * len(batch) if guidance > 1 else None,
            true_cfg_scale=guidance,
            num_inference_steps=steps,
            height=size,
            width=size,
            generator=[torch.Generator().manual_seed(seed + start + offset) for offset in range(len(batch))],
        ).images


def score(
    pipeline: QwenImagePipeline,
    count: int = 200,
    size: int = 32,
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Score:
    """Paint `count` random requests and read them back."""
    requests = random_requests(count, seed)
    pictures = paint(pipeline, [request.caption for request in requests], size, seed, steps, guidance)
    return grade(requests, [read(picture) for picture in pictures])


def grade(requests: list[Request], readings: list[Reading]) -> Score:
    """Compare what was asked for with what was read."""
    pairs = list(zip(requests, readings, strict=True))
    return Score(
        digit=sum(asked.digit == seen.digit for asked, seen in pairs) / len(pairs),
        colour=sum(asked.colour == seen.colour for asked, seen in pairs) / len(pairs),
        background=sum(asked.background == seen.background for asked, seen in pairs) / len(pairs),
    )
