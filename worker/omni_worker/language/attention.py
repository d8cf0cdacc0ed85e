"""Attention over a cache of slots, as transformers' models call it: one function for masks, and one for attention.

The tokens of all requests go through a model one after another, as if they were one text, and nothing is padded. Only
here they are told apart. A model says by itself what each of its layers may see: it hands its own mask function to the
mask interface, and that function is asked at every token's own position.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

_numbers = count()


@dataclass(frozen=True)
class Segment:
    """Tokens `begin` to `end` of a call, which all see the first `span` places of their requests' rows.

    They are of one request, whose row is `rows`, or one each of the requests in neighbouring `rows`.
    """

    begin: int
    end: int
    rows: slice
    span: int

    @property
    def is_single(self) -> bool:
        """Whether every token is of a request of its own."""
        return bool(self.rows.stop - self.rows.start == self.end - self.begin)


@dataclass(frozen=True)
class TokenLayout:
    """Where the tokens of one call belong: each has its row of the cache, and its position there."""

    rows: Tensor
    positions: Tensor
    parts: tuple[Segment, ...]
    span: int


@dataclass
class CurrentLayout:
    """The call that is being made; a cache sets it, and the attention of its model reads it."""

    layout: TokenLayout = field(default_factory=lambda: TokenLayout(torch.empty(0), torch.empty(0), (), 0))


def register(current: CurrentLayout) -> str:
    """Have transformers know the attention of one model, by the name that this gives."""

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **told: Any
    ) -> tuple[Tensor, None]:
        if attention_mask is None or told.get("position_bias") is not None:
            raise NotImplementedError(f"{type(module).__name__} says what a token may see in a way of its own")
        answers = [_attend_part(part, query, key, value, attention_mask, **told) for part in current.layout.parts]
        return (answers[0] if len(answers) == 1 else torch.cat(answers))[None].contiguous(), None

    name = f"omni_slots_{next(_numbers)}"
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, slot_mask)
    return name


def slot_mask(
    *,
    kv_length: int,
    q_offset: Tensor,
    mask_function: Callable[..., Tensor],
    dtype: torch.dtype,
    device: torch.device,
    **kwargs: Any,
) -> Tensor:
    """What a layer adds to its scores: (1, 1, tokens, kv_length). `q_offset` are the tokens' positions, as `SlotCache`
    tells them."""
    keys = torch.arange(kv_length, device=device)[None, None, None, :]
    first = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=device)
    seen = mask_function(first, 0, q_offset[None, None, :, None], keys)
    hidden = torch.finfo(dtype).min  # and not -inf: a row that sees nothing would be NaN
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, hidden)


def _attend_part(part: Segment, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **told: Any) -> Tensor:
    """(tokens of the part, heads, width)."""
    query, mask = query[:, :, part.begin : part.end], mask[:, :, part.begin : part.end, : part.span]
    key, value = key[part.rows, :, : part.span], value[part.rows, :, : part.span]
    if part.is_single:
        query, mask = query.transpose(0, 2), mask.transpose(0, 2)
    answer = attend(query, key, value, mask, **told)
    return answer[:, :, 0] if part.is_single else answer[0].transpose(0, 1)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **told: Any,
) -> Tensor:
    """Attention of `query` (rows, heads, queries, width) to `key` and `value` (rows, key heads, length, width).

    `s_aux` (heads,) are sinks: scores of a further key, whose value is nought. Gives (rows, heads, queries, width).
    """
    rows, heads, queries, width = query.shape
    shared = heads // key.shape[1]
    if shared > 1 and queries == 1:  # the queries that share a key head go together, and nothing is repeated
        query = query.reshape(rows, key.shape[1], shared, width)
    elif shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    if softcap is None and s_aux is None:
        answer = functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
    else:
        scores = torch.matmul(query * (width**-0.5 if scaling is None else scaling), key.transpose(2, 3))
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores + mask
        if s_aux is not None:
            sinks = s_aux.view(1, scores.shape[1], -1, 1).expand(rows, -1, scores.shape[2], -1)
            scores = torch.cat([scores, sinks.to(scores.dtype)], -1)
        shares = torch.softmax(scores, -1, dtype=torch.float32)[..., : key.shape[2]]
        answer = torch.matmul(shares.to(value.dtype), value)
    return answer.reshape(rows, heads, queries, value.shape[-1])
