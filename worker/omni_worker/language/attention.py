"""Attention over a cache of slots, registered with transformers: one mask function and one attention function.

The tokens of all requests go through a model one after another, as if they were one text, without padding. Only the
attention separates requests. Each layer's mask is the model's own: the model passes its mask function to the mask
interface, which evaluates it at every token's own position.
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
    """Tokens `begin` to `end` of a call, which attend to the first `span` positions of their requests' rows.

    They belong either to one request, or to one request each. The `rows` of these requests lie side by side in the
    cache, from `offset` on, with room for `capacity` tokens each.
    """

    begin: int
    end: int
    offset: int
    rows: int
    capacity: int
    span: int

    @property
    def is_single(self) -> bool:
        """Whether every token belongs to a request of its own."""
        return self.rows == self.end - self.begin

    def view(self, states: Tensor) -> Tensor:
        """The requests' rows of a cache's keys or values, (1, heads, size, width): (rows, heads, span, width)."""
        own = states[0, :, self.offset : self.offset + self.rows * self.capacity]
        return own.unflatten(1, (self.rows, self.capacity)).transpose(0, 1)[:, :, : self.span]


@dataclass(frozen=True)
class TokenLayout:
    """Where the tokens of one call belong: each token's place in the cache, and its position in its request's row.

    text_lengths: the length of each token's text; empty if the model does not depend on it
    """

    places: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    span: int
    text_lengths: tuple[int, ...] = ()


@dataclass
class CurrentLayout:
    """The layout of the current call. A cache sets it, and the attention of its model reads it."""

    layout: TokenLayout = field(default_factory=lambda: TokenLayout(torch.empty(0), torch.empty(0), (), 0))


def register(current: CurrentLayout) -> str:
    """Register the attention of one model with transformers; returns its name there."""

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        if attention_mask is None or options.get("position_bias") is not None:
            raise NotImplementedError(f"{type(module).__name__} says what a token may see in a way of its own")
        outputs = [
            _attend_segment(segment, query, key, value, attention_mask, **options)
            for segment in current.layout.segments
        ]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None].contiguous(), None

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
    """The mask that a layer adds to its scores: (1, 1, tokens, kv_length).

    `q_offset` is `SlotCache.get_query_offset`: the tokens' positions.
    """
    keys = torch.arange(kv_length, device=device)[None, None, None, :]
    first = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=device)
    is_visible = mask_function(first, 0, q_offset[None, None, :, None], keys)
    hidden = torch.finfo(dtype).min  # not -inf: a row that sees nothing would become NaN
    return torch.zeros(is_visible.shape, dtype=dtype, device=device).masked_fill_(~is_visible, hidden)


def _attend_segment(
    segment: Segment, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **options: Any
) -> Tensor:
    """The output of one segment: (tokens of the segment, heads, width)."""
    query, mask = query[:, :, segment.begin : segment.end], mask[:, :, segment.begin : segment.end, : segment.span]
    key, value = segment.view(key), segment.view(value)
    if segment.is_single:
        query, mask = query.transpose(0, 2), mask.transpose(0, 2)
    output = attend(query, key, value, mask, **options)
    return output[:, :, 0] if segment.is_single else output[0].transpose(0, 1)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Attention of `query` (rows, heads, queries, width) to `key` and `value` (rows, key heads, length, width).

    `s_aux` (heads,) are attention sinks: the scores of one more key, whose value is zero. Returns (rows, heads,
    queries, width).
    """
    rows, heads, queries, width = query.shape
    group = heads // key.shape[1]
    if group > 1 and queries == 1:  # treats the queries that share a key head as one, so that no key is repeated
        query = query.reshape(rows, key.shape[1], group, width)
    elif group > 1:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    if softcap is None and s_aux is None:
        output = functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
    else:
        scores = torch.matmul(query * (width**-0.5 if scaling is None else scaling), key.transpose(2, 3))
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores + mask
        if s_aux is not None:
            sinks = s_aux.view(1, scores.shape[1], -1, 1).expand(rows, -1, scores.shape[2], -1)
            scores = torch.cat([scores, sinks.to(scores.dtype)], -1)
        weights = torch.softmax(scores, -1, dtype=torch.float32)[..., : key.shape[2]]
        output = torch.matmul(weights.to(value.dtype), value)
    return output.reshape(rows, heads, queries, value.shape[-1])
