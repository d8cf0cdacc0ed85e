"""Functions over the arguments and results of model calls, seen as trees of lists, tuples and mappings."""

import enum
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

VALUE_TYPES = (
    str,
    int,
    float,
    bool,
    bytes,
    complex,
    type(None),
    torch.dtype,
    torch.device,
    enum.Enum,
    range,
    np.generic,
)
COMMON_TYPES = frozenset({str, int, float, bool, type(None)})  # an exact lookup is faster than isinstance(VALUE_TYPES)
IDENTITY_TYPES = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, torch.nn.Module)


class OpaqueValue(Exception):
    """An argument of unknown type, so that nobody can say whether two calls agree in it."""


def describe(value: Any, tensor: Callable[[str, Tensor], Any], name: str = "") -> Any:
    """Everything in a tree except its tensors, as a hashable value. `tensor` describes each tensor.

    `name` is the argument's own. All generators are described alike: the proof of a batch shows whether they are used.
    Raises OpaqueValue for a value that two calls cannot be shown to share.
    """
    kind = type(value)
    if kind in COMMON_TYPES:
        return value
    if isinstance(value, Tensor):
        return tensor(name, value)
    if isinstance(value, dict):
        return kind, tuple([(key, describe(item, tensor, str(key))) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return kind, tuple([describe(item, tensor, name) for item in value])
    if isinstance(value, VALUE_TYPES):
        return value
    if isinstance(value, torch.Generator):
        return torch.Generator
    if isinstance(value, IDENTITY_TYPES):
        return type(value), id(value)
    raise OpaqueValue(f"{name} is a {type(value).__name__}")


def flat_values(value: Any) -> Iterator[Any]:
    """Every value of a tree that is neither a mapping nor a sequence, in order."""
    if isinstance(value, dict):
        for item in value.values():
            yield from flat_values(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from flat_values(item)
    else:
        yield value


def map_tensors(value: Any, tensor: Callable[[Tensor], Tensor]) -> Any:
    """A copy of the tree `value` in which `tensor` has replaced each tensor, in order."""
    if isinstance(value, Tensor):
        return tensor(value)
    if isinstance(value, dict):
        return {name: map_tensors(item, tensor) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return rebuild_sequence(value, [map_tensors(item, tensor) for item in value])
    return value


def rebuild_sequence(template: Any, items: list[Any]) -> Any:
    """A list or (named) tuple of the same type as `template`, with other items."""
    if hasattr(template, "_fields"):
        return type(template)(*items)
    return type(template)(items)


def rebuild_mapping(template: Any, items: dict[Any, Any]) -> Any:
    """A mapping of the same type as `template`, with other items. Output objects of diffusers and transformers are
    mappings too."""
    return items if type(template) is dict else type(template)(**items)


def object_fields(value: Any) -> dict[str, Any] | None:
    """The fields of an object that can hold tensors, such as a distribution or a cache. None for any other value."""
    if isinstance(value, VALUE_TYPES + IDENTITY_TYPES + (torch.Generator, np.ndarray)):
        return None
    return getattr(value, "__dict__", None)


def is_finite(value: Any) -> bool:
    """Whether no tensor of a tree contains NaN or infinity."""
    floats = (item for item in flat_values(value) if isinstance(item, Tensor) and item.is_floating_point())
    return all(bool(torch.isfinite(item).all()) for item in floats)
