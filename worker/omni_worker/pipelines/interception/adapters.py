"""The LoRA adapters of a model: which are active, and with what scale.

The code around the engine may select other adapters while requests run (`set_adapters`). A request keeps those that it
started with.
"""

from collections.abc import Hashable
from typing import Any

from torch.nn import Module

from omni_worker.pipelines.adapter_layers import selects_by_row

ATTRIBUTES = ("_active_adapter", "_disable_adapters", "merged_adapters", "scaling")

State = tuple[tuple[Hashable, ...], ...]


class Adapters:
    """The adapter layers of one model. They are searched again when adapters are added or removed."""

    def __init__(self, model: Module) -> None:
        self._model = model
        self._names: tuple[str, ...] = ()
        self.layers: dict[int, Module] = {}

    def state(self) -> State:
        """Which adapters of each layer are active, with their scales; empty if there are none."""
        names = tuple(getattr(self._model, "peft_config", None) or ())
        if names != self._names:
            found = [layer for layer in self._model.modules() if _is_adapter_layer(layer)] if names else []
            self._names, self.layers = names, {id(layer): layer for layer in found}
        return tuple([(id, *map(_frozen, values(layer).values())) for id, layer in self.layers.items()])

    def values(self) -> dict[int, dict[str, Any]]:
        """The same as the values of the layers' attributes, by the id of the layer."""
        return {id: values(layer) for id, layer in self.layers.items()}


def values(layer: Module) -> dict[str, Any]:
    """The attributes of a layer that select its adapters."""
    found = {name: vars(layer).get(name) for name in ATTRIBUTES}
    return {name: value.copy() if isinstance(value, list | dict) else value for name, value in found.items()}


def kept(before: State, now: State) -> bool:
    """Whether a request that started with `before` can keep it: only the choice has changed, no layer and no weight."""
    return [_fixed(*layer) for layer in before] == [_fixed(*layer) for layer in now]


def _fixed(layer: Hashable, active: Hashable, disabled: Hashable, merged: Hashable, scaling: Any) -> Hashable:
    """The part of a layer's state that cannot be kept when it changes."""
    return layer, merged, tuple(name for name, _ in scaling)


def _is_adapter_layer(layer: Module) -> bool:
    """Whether the attributes of a layer select adapters. In layers that select by row, each request has its own."""
    return "scaling" in vars(layer) and "_active_adapter" in vars(layer) and not selects_by_row(layer)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, dict):
        return tuple(value.items())
    return tuple(value) if isinstance(value, list) else value
