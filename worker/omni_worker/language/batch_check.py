"""Checks, when a model is loaded, that it gives the same scores over a cache of slots as by itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from omni_worker.language.model import RowInput, SlotModel

ROUNDING = {torch.float32: 0.01, torch.float16: 0.05, torch.bfloat16: 0.15}
"""The allowed difference, as a share of the spread of the scores. A wrong mask or position gives several times that."""


def batching_error(model: Any, slots: SlotModel, vocabulary: int, switch: Callable[[], None]) -> float | None:
    """How far the scores of two texts, run in parts and in a batch, differ from the model's own; None within rounding.

    `switch` makes the model attend over slots; its own scores are computed before. If ranks have parts of the model,
    only the last one can compare; the others return None. Raises what the model raises.
    """
    generator = torch.Generator().manual_seed(0)
    long, short = (torch.randint(vocabulary, (count,), generator=generator).tolist() for count in (11, 7))
    with torch.inference_mode():
        alone = [_last_scores(model, text) for text in (long, short)]
        switch()
        slots.cache.reserve(["long", "short"], len(long))
        slots.run([RowInput("long", long[:6], 0, [])])
        slots.run([RowInput("short", short[:6], 0, [5]), RowInput("long", long[6:10], 6, [3])])
        result, _ = slots.run([RowInput("long", long[10:], 10, [0]), RowInput("short", short[6:], 6, [0])])
    for id in ("long", "short"):
        slots.cache.release(id)
    if result is None:
        return None
    worst = max(_difference(*pair) for pair in zip(result.logits, alone, strict=True))
    return None if worst <= ROUNDING[model.dtype] else worst


def _last_scores(model: Any, text: list[int]) -> Tensor:
    return model(input_ids=torch.tensor([text], device=model.device)).logits[0, -1]


def _difference(one: Tensor, other: Tensor) -> float:
    one, other = one.float() - one.float().mean(), other.float() - other.float().mean()
    return float((one - other).norm() / other.norm().clamp(min=1e-12))
