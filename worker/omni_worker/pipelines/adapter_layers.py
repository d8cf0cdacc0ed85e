"""LoRA layers in which every row of a batch has the adapters of its own request.

PEFT selects adapters by attributes of its layers, which hold for all rows. The layers here take them from the batch
(`exchange_rows`), so one model serves requests with different adapters and scales at once, and selecting costs nothing.
A batch in which all rows have the same adapters runs PEFT's own code, and gives its result bit for bit. Otherwise the
weights of all adapters of the batch are stacked along their ranks, and each row's activations are multiplied by its
scales, or by 0: two matrix products add the adapters of all rows.
"""

import functools
import threading
from collections.abc import Hashable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Module

Selection = tuple[tuple[str, float], ...]
"""The names of one request's adapters, with their scales, in the order in which PEFT adds them up."""

STATE = ("_active_adapter", "_disable_adapters", "scaling")
"""The attributes by which PEFT selects the adapters of a layer."""
STACKABLE = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


class UnknownRows(Exception):
    """A layer's input has no dimension that shows which of its rows belong to which request."""


class Rows:
    """The selections of a batch.

    distinct: the different ones
    numbers: of each row, which of them it has
    strengths: what `_strengths` has computed for layers of these rows
    """

    def __init__(self, selections: Sequence[Selection]) -> None:
        self.distinct = tuple(dict.fromkeys(selections))
        self.numbers = tuple(self.distinct.index(selection) for selection in selections)
        self.strengths: dict[Hashable, Tensor] = {}


class _Current(threading.local):
    rows: Rows | None = None


_current = _Current()


def exchange_rows(rows: Rows | None) -> Rows | None:
    """From now on, models in this thread get batches of these rows. Returns the rows before.

    A single row stands for all. None leaves the choice to the attributes of the layers.
    """
    before, _current.rows = _current.rows, rows
    return before


def lora_layers(model: Module) -> list[Any]:
    """The layers of a model that have adapters."""
    from peft.tuners.lora import LoraLayer  # here, because it takes long to import, and many replicas have no adapters

    return [layer for layer in model.modules() if isinstance(layer, LoraLayer)]


def select_by_row(model: Module) -> None:
    """Let the LoRA layers of a model take their adapters from `exchange_rows`."""
    for layer in lora_layers(model):
        if not selects_by_row(layer):
            for name in STATE:
                setattr(layer, name, getattr(layer, name))
            kind: Any = type(layer)
            layer.__class__ = _selecting_type(kind)


def selects_by_row(layer: Module) -> bool:
    """Whether a layer takes its adapters from `exchange_rows`."""
    return hasattr(layer, "_omni_peft_forward")


def forget(name: str) -> None:
    """Forget what is kept of an adapter that is unloaded."""
    for layer, (names, *_) in list(_stacked.items()):
        if name in names:
            del _stacked[layer]


@functools.cache
def _selecting_type(kind: Any) -> Any:
    """The class of a LoRA layer's kind whose rows can differ. It has the same name."""
    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(kind)(kind.__name__, (kind,), {**names, "forward": _forward, "_omni_peft_forward": kind.forward})


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    rows = _current.rows
    if rows is None:
        result: Tensor = self._omni_peft_forward(x, *args, **kwargs)
        return result
    # An adapter need not have weights for each layer.
    own = [tuple(one for one in selection if one[0] in self.scaling) for selection in rows.distinct]
    if all(selection == own[0] for selection in own):
        return _uniform(self, own[0], x, *args, **kwargs)
    if len(x) == 1:  # a value that all rows share, such as the embedding of a timestep
        x = x.expand(len(rows.numbers), *x.shape[1:])
    if len(x) % len(rows.numbers):
        raise UnknownRows
    names = tuple(sorted({name for selection in own for name, _ in selection}))
    if args or kwargs or not _can_be_stacked(self, names):
        return _by_selection(self, own, rows, x, *args, **kwargs)
    base: Tensor = self.base_layer(x)
    down, up = _stack(self, names)
    inner, outer = self.lora_A[names[0]], self.lora_B[names[0]]
    activations = _product(inner, x.to(down.dtype), down)
    strengths = _strengths(self, own, names, rows, len(x), down)
    ones = [1] * (activations.dim() - 2)
    shape = (len(x), *ones, -1) if isinstance(inner, torch.nn.Linear) else (len(x), -1, *ones)  # where the ranks are
    return (base + _product(outer, activations * strengths.view(shape), up)).to(base.dtype)


def _uniform(layer: Any, selection: Selection, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The result of PEFT's own code, with the same adapters for all rows."""
    before = [getattr(layer, name) for name in STATE]
    after = [name for name, _ in selection], False, _scaling(layer, selection)
    try:
        for name, value in zip(STATE, after, strict=True):
            setattr(layer, name, value)
        result: Tensor = layer._omni_peft_forward(x, *args, **kwargs)
        return result
    finally:
        for name, value in zip(STATE, before, strict=True):
            setattr(layer, name, value)


def _by_selection(layer: Any, own: Sequence[Selection], rows: Rows, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The same for any kind of layer: the rows of each selection run by themselves."""
    result: Tensor | None = None
    numbers = _numbers(rows, len(x))
    for number, selection in enumerate(own):
        places = [place for place, other in enumerate(numbers) if other == number]
        part = _uniform(layer, selection, x[places], *args, **kwargs)
        if result is None:
            result = part.new_empty(len(x), *part.shape[1:])
        result[places] = part
    assert result is not None, "a batch has rows"
    return result


def _numbers(rows: Rows, length: int) -> list[int]:
    """Of each place in a layer's input, which selection it has. A row may have several places, such as frames."""
    return [number for number in rows.numbers for _ in range(length // len(rows.numbers))]


def _scaling(layer: Any, selection: Selection) -> dict[str, float]:
    """What PEFT multiplies each adapter of a layer by, at these scales."""
    before = layer.scaling
    layer.scaling = dict(before)
    try:
        for name, scale in selection:
            layer.set_scale(name, scale)
        return {name: layer.scaling[name] for name, _ in selection}
    finally:
        layer.scaling = before


def _strengths(
    layer: Any, own: Sequence[Selection], names: Sequence[str], rows: Rows, length: int, like: Tensor
) -> Tensor:
    """What each place's activations are multiplied by, of shape (length, all ranks). Most layers share one."""
    kinds = [(name, layer.r[name], layer.lora_alpha[name], layer.use_rslora.get(name)) for name in names]
    key = tuple(own), tuple(kinds), length, like.dtype, like.device
    known = rows.strengths.get(key)
    if known is None:
        scaling = [_scaling(layer, selection) for selection in own]
        table = torch.tensor([[of.get(name, 0.0) for name in names for _ in range(layer.r[name])] for of in scaling])
        known = rows.strengths[key] = table[_numbers(rows, length)].to(like.device, like.dtype)
    return known


_stacked: "WeakKeyDictionary[Module, tuple[tuple[str, ...], Tensor, Tensor]]" = WeakKeyDictionary()


def _can_be_stacked(layer: Any, names: Sequence[str]) -> bool:
    """Whether the adapters of a layer are plain LoRA: not DoRA, not of an embedding, without a bias."""
    pairs = [(layer.lora_A[name], layer.lora_B[name]) for name in names if name in layer.lora_A]
    are_plain = all(
        isinstance(module, STACKABLE) and module.bias is None and getattr(module, "groups", 1) == 1
        for pair in pairs
        for module in pair
    )
    return are_plain and len(pairs) == len(names) and not any(name in layer.lora_variant for name in names)


def _stack(layer: Any, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The weights of some adapters of a layer, stacked along their ranks."""
    known = _stacked.get(layer)
    if known is None or known[0] != names:
        down = torch.cat([layer.lora_A[name].weight for name in names]).detach()
        up = torch.cat([layer.lora_B[name].weight for name in names], 1).detach()
        known = _stacked[layer] = names, down, up
    return known[1:]


def _product(module: Any, x: Tensor, weight: Tensor) -> Tensor:
    """What the module computes with another weight."""
    if isinstance(module, torch.nn.Linear):
        return torch.nn.functional.linear(x, weight)
    result: Tensor = module._conv_forward(x, weight, None)
    return result
