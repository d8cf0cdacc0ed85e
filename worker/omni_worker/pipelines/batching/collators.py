"""Lets calls of certain model families share a batch although their sequences have different lengths.

A collator widens a call's key and pads the sequences. Its batches are proven like any other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import pad

Shape = tuple[int | None, ...]
FINE_STEP, COARSE_STEP = 16, 64
"""Between lengths of padded sequences, in positions."""


@dataclass(frozen=True)
class Collator:
    """For models that take sequences of any length.

    padded: arguments whose dimension 1 is the sequence's; they are padded with zeros
    mask: the one of them that marks the positions that count, if the lengths in a batch differ
    ragged: arguments that are lists of sequences, which the model pads itself
    trims_result: whether the result is as long as the sequence (as a text encoder's is), so that its padding is removed
    """

    padded: frozenset[str] = frozenset()
    mask: str | None = None
    ragged: frozenset[str] = frozenset()
    trims_result: bool = False

    def shape(self, name: str, shape: tuple[int, ...]) -> Shape:
        """The part of an argument's shape that must be equal in all calls."""
        if name in self.padded and len(shape) > 1:
            return (shape[0], None, *shape[2:])
        if name in self.ragged and shape:
            return (None, *shape[1:])
        return shape

    def length(self, leaves: Sequence[tuple[str, Tensor]]) -> int:
        """The length of a call's sequence; 0 if it has none."""
        return next((int(value.shape[1]) for name, value in leaves if name in self.padded and value.dim() > 1), 0)

    def pad_arguments(self, kwargs: dict[str, Any], length: int) -> dict[str, Any]:
        """A call's keyword arguments with the sequence padded to `length`, and a mask for it."""
        padded = dict(kwargs)
        for name in self.padded:
            value = kwargs.get(name)
            if isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] < length:
                padding = [0, 0] * (value.dim() - 2) + [0, length - value.shape[1]]
                padded[name] = pad(value, padding)
        if self.mask is not None and kwargs.get(self.mask) is None:
            padded[self.mask] = self._new_mask(kwargs, length)
        return padded

    def trim(self, value: Tensor, length: int, padded_length: int) -> Tensor:
        """A tensor of the result without the positions of the padding."""
        if value.dim() > 1 and value.shape[1] == padded_length:
            return value[:, :length]
        if value.dim() == 4 and value.shape[2] == padded_length:  # the keys and values of an attention
            return value[:, :, :length]
        return value

    def _new_mask(self, kwargs: dict[str, Any], length: int) -> Tensor | None:
        sequence = next((kwargs[name] for name in self.padded if isinstance(kwargs.get(name), Tensor)), None)
        if sequence is None:
            return None
        ones = torch.ones(sequence.shape[:2], dtype=torch.long, device=sequence.device)
        return pad(ones, [0, length - sequence.shape[1]])


class LengthBuckets:
    """The lengths to which the sequences of a compiled model are padded: few, so that few shapes occur.

    They are multiples of 16 up to 64, and of 64 above. Padding is masked, so it changes no result beyond rounding.

    used: those that occurred
    """

    def __init__(self) -> None:
        self.used: set[int] = set()

    def of(self, length: int) -> int:
        """The shortest of them that has room for `length` positions."""
        step = FINE_STEP if length <= COARSE_STEP else COARSE_STEP
        bucket = math.ceil(length / step) * step
        self.used.add(bucket)
        return bucket


QWEN_IMAGE = Collator(
    padded=frozenset({"encoder_hidden_states", "encoder_hidden_states_mask"}), mask="encoder_hidden_states_mask"
)
Z_IMAGE = Collator(ragged=frozenset({"cap_feats"}))
TEXT_ENCODER = Collator(padded=frozenset({"input_ids", "attention_mask"}), mask="attention_mask", trims_result=True)

COLLATORS = {
    "QwenImageTransformer2DModel": QWEN_IMAGE,
    "ZImageTransformer2DModel": Z_IMAGE,
}


BACKENDS_WITHOUT_MASK = frozenset({
    "flash", "flash_hub", "_flash_3", "_flash_3_hub", "flash_4_hub", "aiter_fa2_hub", "_native_flash", "_native_xla",
    "sage", "sage_hub", "sage_blackwell_hub", "_sage_qk_int8_pv_fp8_cuda", "_sage_qk_int8_pv_fp8_cuda_sm90",
    "_sage_qk_int8_pv_fp16_cuda", "_sage_qk_int8_pv_fp16_triton",
})  # fmt: skip
"""The attention backends of diffusers that raise an error for a mask."""
MASKS_ARE_RIGHT_UP_TO = 2
"""Ranks among which diffusers divides a mask of any length. Among more, it misplaces the masks of the middle ones."""


def collator_of(model: torch.nn.Module) -> Collator | None:
    """The collator of a model, or None: then calls share a batch only if their sequences have the same length.

    So do the calls of a model whose attention takes no masks, unless it pads the sequences itself.
    """
    if isinstance(model, transformers.PreTrainedModel):
        return TEXT_ENCODER
    collator = COLLATORS.get(type(model).__name__)
    return None if collator is not None and collator.mask is not None and not _takes_masks(model) else collator


def _takes_masks(model: torch.nn.Module) -> bool:
    """Whether every attention backend that was set in a model takes masks, and ranks that compute it divide them."""
    divided = getattr(getattr(model, "_parallel_config", None), "context_parallel_config", None)
    if divided is not None and (divided.ring_degree > 1 or divided.ulysses_degree > MASKS_ARE_RIGHT_UP_TO):
        return False
    processors = (getattr(module, "processor", None) for module in model.modules())
    return not any(getattr(one, "_attention_backend", None) in BACKENDS_WITHOUT_MASK for one in processors)
