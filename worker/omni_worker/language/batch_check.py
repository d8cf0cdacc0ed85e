"""Sees, when a model is loaded, that slots give the scores that the model gives by itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from omni_worker.language.model import RowInput, SlotModel

ROUNDING = {torch.float32: 0.01, torch.float16: 0.05, torch.bfloat16: 0.15}
"""How much of the spread of its scores a model may be off. A wrong mask or place is several times the largest."""


def batching_error(model: Any, slots: SlotModel, vocabulary: int, switch: Callable[[], None]) -> float | None:
    """How far the scores of two texts are off in a batch, part by part; None where it is no more than rounding.

    `switch` makes the model attend by slots; the scores that it is compared with are from before. Of ranks that have
    parts of it, the last one can tell. Raises what the model raises.
    """
    made = torch.Generator().manual_seed(0)
    long, short = (torch.randint(vocabulary, (count,), generator=made).tolist() for count in (11, 7))
    with torch.inference_mode():
        alone = [_last_scores(model, text) for text in (long, short)]
        switch()
        slots.cache.reserve(["long", "short"], len(long))
        slots.run([RowInput("long", long[:6], 0, [])])
        slots.run([RowInput("short", short[:6], 0, [5]), RowInput("long", long[6:10], 6, [3])])
        answer, _ = slots.run([RowInput("long", long[10:], 10, [0]), RowInput("short", short[6:], 6, [0])])
    for id in ("long", "short"):
        slots.cache.release(id)
    if answer is None:
        return None
    worst = max(_difference(*pair) for pair in zip(answer.logits, alone, strict=True))
    return None if worst <= ROUNDING[model.dtype] else worst


def _last_scores(model: Any, text: list[int]) -> Tensor:
    return model(input_ids=torch.tensor([text], device=model.device)).logits[0, -1]


def _difference(one: Tensor, other: Tensor) -> float:
    one, other = one.float() - one.float().mean(), other.float() - other.float().mean()
    return float((one - other).norm() / other.norm().clamp(min=1e-12))
