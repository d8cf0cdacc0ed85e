"""Attention over a cache of slots, as transformers' models call it: one function for masks, and one for attention.

A model says by itself what each of its layers may see: it hands its own mask function to the mask interface. Here that
function is asked at every row's own positions, so that rows of different lengths share a call, whatever the layer.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

NAME = "omni_slots"


def slot_mask(
    *,
    kv_length: int,
    q_offset: Tensor,
    mask_function: Callable[..., Tensor],
    dtype: torch.dtype,
    device: torch.device,
    **kwargs: Any,
) -> Tensor:
    """What a layer adds to its scores: (rows, 1, queries, kv_length). `q_offset` are the queries' positions, as
    `SlotCache` tells them."""
    rows = torch.arange(q_offset.shape[0], device=device)[:, None, None, None]
    keys = torch.arange(kv_length, device=device)[None, None, None, :]
    seen = mask_function(rows, 0, q_offset[:, None, :, None], keys)
    hidden = torch.finfo(dtype).min  # and not -inf: a row that sees nothing would be NaN
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, hidden)


def slot_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of `query` (rows, heads, queries, width) to `key` and `value` (rows, key heads, length, width).

    `s_aux` (heads,) are sinks: scores of a further key, whose value is nought. Gives (rows, queries, heads, width).
    Raises NotImplementedError for a kind of attention that it does not know.
    """
    if attention_mask is None or position_bias is not None:
        raise NotImplementedError(f"{type(module).__name__} says what a token may see in a way of its own")
    rows, heads, queries, width = query.shape
    shared = heads // key.shape[1]
    if shared > 1 and queries == 1:  # the queries that share a key head go together, and nothing is repeated
        query = query.reshape(rows, key.shape[1], shared, width)
    elif shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    if softcap is None and s_aux is None:
        answer = functional.scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling)
    else:
        scores = torch.matmul(query * (width**-0.5 if scaling is None else scaling), key.transpose(2, 3))
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores + attention_mask
        if s_aux is not None:
            sinks = s_aux.view(1, scores.shape[1], -1, 1).expand(rows, -1, scores.shape[2], -1)
            scores = torch.cat([scores, sinks.to(scores.dtype)], -1)
        shares = torch.softmax(scores, -1, dtype=torch.float32)[..., : key.shape[2]]
        answer = torch.matmul(shares.to(value.dtype), value)
    return answer.reshape(rows, heads, queries, value.shape[-1]).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, slot_attention)
AttentionMaskInterface.register(NAME, slot_mask)
