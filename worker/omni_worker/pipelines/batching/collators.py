"""What is known of single model families: how their calls can share a batch though their shapes differ.

A collator widens a call's key and says how to even out what differs. It is trusted no more than any other batch: the
first one is compared with the answers alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import pad

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Collator:
    """For models that take sequences of any length.

    padded: arguments whose dimension 1 is the sequence's; they are filled up with zeros
    mask: the one of them that says which positions count, in a call with more than one length
    ragged: arguments that are lists of sequences, which the model itself evens out
    cuts_answer: whether the answer is as long as the sequence (a text encoder's), so that the padding is cut off again
    """

    padded: frozenset[str] = frozenset()
    mask: str | None = None
    ragged: frozenset[str] = frozenset()
    cuts_answer: bool = False

    def shape(self, name: str, shape: tuple[int, ...]) -> Shape:
        """What of an argument's shape must be equal."""
        if name in self.padded and len(shape) > 1:
            return (shape[0], None, *shape[2:])
        if name in self.ragged and shape:
            return (None, *shape[1:])
        return shape

    def length(self, leaves: Sequence[tuple[str, Tensor]]) -> int:
        """How long the sequence of a call is; 0 where there is none."""
        return next((int(value.shape[1]) for name, value in leaves if name in self.padded and value.dim() > 1), 0)

    def even_out(self, kwargs: dict[str, Any], length: int) -> dict[str, Any]:
        """A call's keyword arguments with the sequence filled up to `length`, and a mask that says so."""
        evened = dict(kwargs)
        for name in self.padded:
            value = kwargs.get(name)
            if isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] < length:
                filling = [0, 0] * (value.dim() - 2) + [0, length - value.shape[1]]
                evened[name] = pad(value, filling)
        if self.mask is not None and kwargs.get(self.mask) is None:
            evened[self.mask] = self._full_mask(kwargs, length)
        return evened

    def _full_mask(self, kwargs: dict[str, Any], length: int) -> Tensor | None:
        sequence = next((kwargs[name] for name in self.padded if isinstance(kwargs.get(name), Tensor)), None)
        if sequence is None:
            return None
        own = torch.ones(sequence.shape[:2], dtype=torch.long, device=sequence.device)
        return pad(own, [0, length - sequence.shape[1]])

    def cut(self, value: Tensor, length: int, padded_length: int) -> Tensor:
        """A tensor of the answer without what was computed for the padding."""
        if value.dim() > 1 and value.shape[1] == padded_length:
            return value[:, :length]
        if value.dim() == 4 and value.shape[2] == padded_length:  # the keys and values of an attention
            return value[:, :, :length]
        return value


QWEN_IMAGE = Collator(
    padded=frozenset({"encoder_hidden_states", "encoder_hidden_states_mask"}), mask="encoder_hidden_states_mask"
)
Z_IMAGE = Collator(ragged=frozenset({"cap_feats"}))
TEXT_ENCODER = Collator(padded=frozenset({"input_ids", "attention_mask"}), mask="attention_mask", cuts_answer=True)

COLLATORS = {
    "QwenImageTransformer2DModel": QWEN_IMAGE,
    "ZImageTransformer2DModel": Z_IMAGE,
}


def collator_of(model: torch.nn.Module) -> Collator | None:
    """The collator of a model, if there is one."""
    if isinstance(model, transformers.PreTrainedModel):
        return TEXT_ENCODER
    return COLLATORS.get(type(model).__name__)
