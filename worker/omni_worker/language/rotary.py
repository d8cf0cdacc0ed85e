"""Rotary embeddings that depend on the length of the text, such as longrope's in Phi-3 and Phi-4-mini.

Such a module looks at the greatest position of a whole call, and uses other frequencies for all tokens if that reaches
a border. In a batch, one long text would change the others. Here every token gets the frequencies of its own text.
Modules are probed, not recognized by their names in the config, so that the model's own code decides.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from omni_worker.language.attention import CurrentLayout

PROBED = 4  # the embeddings of positions 0 to 3 are compared, beside greater positions
UNBOUNDED = 2**17  # the greatest text that is probed if the model names none


@dataclass(frozen=True)
class LengthDependence:
    """How a module depends on the greatest position of a call.

    border: the smallest greatest position that changes the embeddings of other tokens
    is_step: whether all greater ones change them in the same way
    """

    border: int
    is_step: bool


class SeparatedRotary:
    """Takes the place of a module's `forward`. `borders` has the border of each layer type, or of all under None."""

    def __init__(self, module: nn.Module, borders: dict[str | None, int], current: CurrentLayout) -> None:
        self._forward: Callable[..., Any] = module.forward
        self._borders = borders
        self._current = current
        module.forward = self

    def __call__(self, x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> Any:
        options = {} if layer_type is None else {"layer_type": layer_type}
        lengths, border = self._current.layout.text_lengths, self._borders.get(layer_type)
        if border is None or all(length <= border for length in lengths):
            return self._forward(x, position_ids, **options)
        greatest = position_ids.new_full((*position_ids.shape[:-1], 1), border)
        long = self._forward(x, torch.cat([position_ids, greatest], -1), **options)
        long = _pytree.tree_map(lambda one: one[:, :-1], long)
        if all(length > border for length in lengths):
            return long
        short = self._forward(x, position_ids.clamp(max=border - 1), **options)
        is_long = torch.tensor([length > border for length in lengths], device=position_ids.device)[None, :, None]
        return _pytree.tree_map(lambda one, other: torch.where(is_long, one, other), long, short)


def separate_lengths(
    model: nn.Module, context: int | None, current: CurrentLayout
) -> tuple[tuple[int, ...], int | None]:
    """Make `model` compute every token's rotary embedding from the length of its own text.

    Returns the borders, and the longest text that can be separated, at most `context`. A text that grows beyond a
    border gets other embeddings from its first token on.
    """
    found: set[int] = set()
    for module in list(model.modules()):
        if "Rotary" not in type(module).__name__ or "position_ids" not in inspect.signature(module.forward).parameters:
            continue
        borders: dict[str | None, int] = {}
        for layer_type in _layer_types(module):
            dependence = length_dependence(module, layer_type, context or UNBOUNDED)
            if dependence is not None and dependence.is_step:
                borders[layer_type] = dependence.border
            elif dependence is not None:
                context = dependence.border
        if borders:
            SeparatedRotary(module, borders, current)
            found.update(borders.values())
    return tuple(sorted(one for one in found if context is None or one < context)), context


def length_dependence(module: nn.Module, layer_type: str | None, context: int) -> LengthDependence | None:
    """How the embeddings of a module depend on the length of texts of at most `context` tokens; None if they do not."""
    options = {} if layer_type is None else {"layer_type": layer_type}
    device = next((buffer.device for buffer in module.buffers()), torch.device("cpu"))
    states = torch.zeros(1, 1, 1, device=device)
    few = list(range(PROBED))

    def beside(greatest: int) -> list[Tensor]:
        positions = torch.tensor([[*few, greatest]], device=device)
        return [one[:, :PROBED].clone() for one in _pytree.tree_leaves(module.forward(states, positions, **options))]

    def is_same(one: list[Tensor], other: list[Tensor]) -> bool:
        return all(torch.equal(*pair) for pair in zip(one, other, strict=True))

    short, long = beside(PROBED - 1), beside(context - 1)
    below, border = PROBED - 1, context - 1
    if context <= PROBED or is_same(short, long):
        return None
    while border - below > 1:
        middle = (below + border) // 2
        below, border = (middle, border) if is_same(beside(middle), short) else (below, middle)
    is_step = all(is_same(beside(one), long) for one in (border, (border + context) // 2))
    beside(PROBED - 1)  # some modules remember the greatest position
    return LengthDependence(border, is_step)


def _layer_types(module: nn.Module) -> list[str | None]:
    """The layer types that `module` takes; only None if it has one embedding for all layers."""
    if "layer_type" not in inspect.signature(module.forward).parameters:
        return [None]
    rope_type = getattr(module, "rope_type", None)
    return list(rope_type) if isinstance(rope_type, dict) else [None]
