"""Draws the next token of every request of a batch at once.

Which token is drawn depends on the request's seed and on the token's place in its answer, and on nothing that was drawn
before or beside it: so an answer is the same alone and in a batch, and can be gone on with elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from omni_worker.requests import SEED_LIMIT

_DRAWN_TOGETHER = 64


@dataclass
class RandomNumbers:
    """The random numbers of one answer: `at(i)`, uniform from 0 up to 1, is that of its token i.

    Philox is a generator that can begin anywhere (Salmon et al., SC 2011).
    """

    seed: int
    _block: int = -1
    _numbers: np.ndarray = field(default_factory=lambda: np.empty(0))

    def at(self, place: int) -> float:
        """The number of one place."""
        block, index = divmod(place, _DRAWN_TOGETHER)
        if block != self._block:
            bits = np.random.Philox(key=self.seed % SEED_LIMIT, counter=block * _DRAWN_TOGETHER)
            self._block, self._numbers = block, np.random.Generator(bits).random(_DRAWN_TOGETHER)
        return float(self._numbers[index])


@dataclass(frozen=True)
class TokenSampling:
    """How one token is drawn; `temperature` 0 takes the likeliest. `top_k` 0 and `top_p` 1 leave all in."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    chance: float = 0.0

    @property
    def is_filtered(self) -> bool:
        """Whether not every token can be drawn."""
        return self.top_k > 0 or self.top_p < 1.0


def sample_tokens(logits: Tensor, choices: Sequence[TokenSampling]) -> list[int]:
    """A token for each row of `logits` (rows, vocabulary); -1 where a row has no finite greatest score."""
    greatest, tokens = logits.max(-1)
    random = [i for i, choice in enumerate(choices) if choice.temperature > 0.0]
    if random:
        rows = torch.tensor(random, device=logits.device)
        tokens[rows] = _drawn(logits[rows].float(), [choices[i] for i in random])
    return torch.where(torch.isfinite(greatest), tokens, -1).tolist()  # type: ignore[no-any-return]


def _drawn(logits: Tensor, choices: Sequence[TokenSampling]) -> Tensor:
    logits = logits / _column([choice.temperature for choice in choices], logits)
    filtered = [i for i, choice in enumerate(choices) if choice.is_filtered]
    if filtered:
        rows = torch.tensor(filtered, device=logits.device)
        logits[rows] = keep_likeliest(logits[rows], [choices[i] for i in filtered])
    heights = torch.softmax(logits, -1, dtype=torch.float64).cumsum(-1)
    total = heights[:, -1:]
    chances = _column([choice.chance for choice in choices], heights)
    aims = torch.minimum(chances * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(heights, aims, right=True)[:, 0]


def keep_likeliest(logits: Tensor, choices: Sequence[TokenSampling]) -> Tensor:
    """`logits` where all but the `top_k` likeliest tokens of a row are -inf, and then all but the likeliest of these
    that have `top_p` of the probability together: as transformers' TopKLogitsWarper and TopPLogitsWarper do it."""
    size = logits.shape[-1]
    ordered, tokens = logits.sort(-1)  # the likeliest is last
    counts = torch.tensor([min(choice.top_k or size, size) for choice in choices], device=logits.device)
    ordered = ordered.masked_fill(ordered < ordered.gather(-1, size - counts[:, None]), -torch.inf)
    shares = torch.softmax(ordered, -1).cumsum(-1)
    out = shares <= 1.0 - _column([choice.top_p for choice in choices], logits)
    out[:, -1] = False
    return torch.empty_like(logits).scatter_(-1, tokens, ordered.masked_fill(out, -torch.inf))


def log_probabilities(logits: Tensor, tokens: Sequence[int], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row (rows, vocabulary): its token's log-probability, and the `count` likeliest tokens with theirs."""
    logs = torch.log_softmax(logits.float(), -1)
    own = logs.gather(-1, torch.tensor(tokens, device=logs.device)[:, None])[:, 0]
    values, likely = logs.topk(min(count, logs.shape[-1]), -1)
    return own, likely, values


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
