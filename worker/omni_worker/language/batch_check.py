"""Checks, when a model is loaded, that it gives the same scores over a cache of slots as by itself."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from omni_worker.language.model import RowInput, SlotModel

ROUNDING = {torch.float32: 0.01, torch.float16: 0.05, torch.bfloat16: 0.15}
"""The allowed difference, as a share of the spread of the scores. A wrong mask or position gives several times that."""
LENGTHS = (30, 11, 7)
BEYOND = 5  # tokens of the longest text after the last border
CHUNK = 512
TAILS = (4, 4, 1)  # tokens of each text's last call but one


def checked_lengths(borders: Sequence[int]) -> tuple[int, ...]:
    """The lengths of the texts that are compared: one that goes beyond all borders, and short ones."""
    longest = max(borders, default=0) + BEYOND
    return (max(longest, LENGTHS[0]), *LENGTHS[1:])


def batching_error(slots: SlotModel, borders: Sequence[int], switch: Callable[[], None]) -> float | None:
    """How far the scores of texts, run in parts and in a batch, differ from the model's own; None within rounding.

    One text goes beyond all `borders`, the lengths at which a model treats its tokens differently. `switch` makes the
    model attend over slots; its own scores are computed before. If ranks have parts of the model, only the last one
    can compare; the others return None. Raises what the model raises.
    """
    generator = torch.Generator().manual_seed(0)
    texts = {
        str(length): torch.randint(slots.vocabulary, (length,), generator=generator).tolist()
        for length in checked_lengths(borders)
    }
    with torch.inference_mode():
        alone = [slots.score_alone(text) for text in texts.values()]
        dtype = alone[0].dtype
        switch()
        slots.cache.reserve({id: len(text) for id, text in texts.items()})
        for rows in _calls(texts):
            result, _ = slots.run(rows)
    slots.cache.clear()
    if result is None:
        return None
    worst = max(_difference(*pair) for pair in zip(result.logits, alone, strict=True))
    return None if worst <= ROUNDING[dtype] else worst


def _calls(texts: dict[str, list[int]]) -> Iterator[list[RowInput]]:
    """Calls that run the texts in parts and end together. Rows with one token share calls with rows of more."""
    calls_of_texts: list[list[RowInput]] = []
    for i, (id, text) in enumerate(texts.items()):
        last = len(text) - 1
        places = [*range(0, last - TAILS[i], CHUNK), last - TAILS[i], last, len(text)]
        rows = [RowInput(id, text[begin:end], begin, [], len(text)) for begin, end in pairwise(places)]
        calls_of_texts.append([*rows[:-1], replace(rows[-1], scored=[0])])
    for left in range(max(map(len, calls_of_texts)), 0, -1):
        yield [rows[-left] for rows in calls_of_texts if len(rows) >= left]


def _difference(one: Tensor, other: Tensor) -> float:
    one, other = one.float() - one.float().mean(), other.float() - other.float().mean()
    return float((one - other).norm() / other.norm().clamp(min=1e-12))
