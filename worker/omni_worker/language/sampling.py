"""Samples the next token of every request of a batch at once.

The token depends on the request's seed and on the token's place in the output, and on no other token or request. So the
output is the same alone and in a batch, and another replica can resume it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from omni_worker.requests import SEED_LIMIT

_BLOCK_SIZE = 64


@dataclass
class RandomNumbers:
    """The random numbers of one request: `at(i)`, uniform in [0, 1), belongs to output token i.

    Philox is a counter-based generator, which can start at any place (Salmon et al., SC 2011).
    """

    seed: int
    _block: int = -1
    _numbers: np.ndarray = field(default_factory=lambda: np.empty(0))

    def at(self, place: int) -> float:
        """The number of the output token at `place`."""
        block, index = divmod(place, _BLOCK_SIZE)
        if block != self._block:
            bits = np.random.Philox(key=self.seed % SEED_LIMIT, counter=block * _BLOCK_SIZE)
            self._block, self._numbers = block, np.random.Generator(bits).random(_BLOCK_SIZE)
        return float(self._numbers[index])


Filter = Callable[[None, Tensor], Tensor]


@dataclass(frozen=True)
class TokenSampling:
    """How one token is sampled. `temperature` 0 takes the likeliest token; `top_k` 0 and `top_p` 1 exclude none.

    random: the token's random number, uniform in [0, 1)
    filters: exclude more tokens, afterwards; each is called with None and the scores (1, vocabulary)
    """

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    random: float = 0.0
    filters: Sequence[Filter] = ()

    @property
    def is_filtered(self) -> bool:
        """Whether `top_k` or `top_p` exclude tokens."""
        return self.top_k > 0 or self.top_p < 1.0


def sample_tokens(logits: Tensor, samplings: Sequence[TokenSampling]) -> list[int]:
    """A token for each row of `logits` (rows, vocabulary); -1 for a row whose greatest score is not finite."""
    greatest, tokens = logits.max(-1)
    random = [i for i, sampling in enumerate(samplings) if sampling.temperature > 0.0]
    if random:
        rows = torch.tensor(random, device=logits.device)
        tokens[rows] = _random_tokens(logits[rows].float(), [samplings[i] for i in random])
    return torch.where(torch.isfinite(greatest), tokens, -1).tolist()  # type: ignore[no-any-return]


def _random_tokens(logits: Tensor, samplings: Sequence[TokenSampling]) -> Tensor:
    """Tokens by inverse transform sampling: the first whose cumulative probability is above the random number.

    Every row with a finite greatest score gets a token of the vocabulary, whatever its temperature. The greatest score
    becomes 0 before the division, which therefore cannot overflow to infinity; a quotient of -inf has probability 0.
    """
    bounds = torch.finfo(logits.dtype)
    temperatures = _column([min(max(one.temperature, bounds.tiny), bounds.max) for one in samplings], logits)
    logits = (logits - logits.amax(-1, keepdim=True)) / temperatures
    filtered = [i for i, sampling in enumerate(samplings) if sampling.is_filtered]
    if filtered:
        rows = torch.tensor(filtered, device=logits.device)
        logits[rows] = keep_likeliest(logits[rows], [samplings[i] for i in filtered])
    for i, sampling in enumerate(samplings):
        for exclude in sampling.filters:
            logits[i : i + 1] = exclude(None, logits[i : i + 1])
    cumulative = torch.softmax(logits, -1, dtype=torch.float64).cumsum(-1)
    total = cumulative[:, -1:]
    random = _column([sampling.random for sampling in samplings], cumulative)
    thresholds = torch.minimum(random * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, thresholds, right=True)[:, 0]


def keep_likeliest(logits: Tensor, samplings: Sequence[TokenSampling]) -> Tensor:
    """`logits` (rows, vocabulary) with -inf for every token that the row's `top_k` and `top_p` exclude.

    First `top_k` keeps the likeliest tokens; then `top_p` keeps the likeliest of these that together have that share of
    the probability. This equals transformers' TopKLogitsWarper followed by TopPLogitsWarper.
    """
    size = logits.shape[-1]
    ordered, tokens = logits.sort(-1)  # the likeliest is last
    counts = torch.tensor([min(sampling.top_k or size, size) for sampling in samplings], device=logits.device)
    ordered = ordered.masked_fill(ordered < ordered.gather(-1, size - counts[:, None]), -torch.inf)
    cumulative = torch.softmax(ordered, -1).cumsum(-1)
    is_excluded = cumulative <= 1.0 - _column([sampling.top_p for sampling in samplings], logits)
    is_excluded[:, -1] = False
    return torch.empty_like(logits).scatter_(-1, tokens, ordered.masked_fill(is_excluded, -torch.inf))


def log_probabilities(logits: Tensor, tokens: Sequence[int], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """For `logits` (rows, vocabulary) and one token for each row: the tokens' log-probabilities (rows,), the `count`
    likeliest tokens (rows, count), and their log-probabilities (rows, count)."""
    logs = torch.log_softmax(logits.float(), -1)
    own = logs.gather(-1, torch.tensor(tokens, device=logs.device)[:, None])[:, 0]
    values, likeliest = logs.topk(min(count, logs.shape[-1]), -1)
    return own, likeliest, values


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
