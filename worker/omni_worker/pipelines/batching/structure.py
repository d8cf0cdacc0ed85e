"""Functions over the arguments and results of model calls, seen as trees of containers.

A container is a mapping, a list, a tuple, a plain object (a cache of keys and values, an attention mask, a
distribution), or a function with what it closes over. Everything else is a value. Objects that a tree holds several
times, or that hold each other, stay so in copies of the tree.
"""

import copyreg
import enum
import functools
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Path = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Stands for the container at a place in a tree."""

    path: Path


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
    slice,
    Place,
)
DEFAULTS, KEYWORD_DEFAULTS = "__defaults__", "__kwdefaults__"
COMMON_TYPES = frozenset({str, int, float, bool, type(None)})  # an exact lookup is faster than isinstance(VALUE_TYPES)
IDENTITY_TYPES = (type, types.BuiltinFunctionType, torch.nn.Module)
MAX_OBJECTS = 10_000  # of a call; more belong to no call alone
POINTER_BYTES = np.dtype(np.intp).itemsize


class OpaqueValue(Exception):
    """An argument of unknown type, so that nobody can say whether two calls agree in it."""


def describe(
    value: Any, tensor: Callable[[str, Tensor], Any], name: str = "", seen: dict[int, int] | None = None
) -> Any:
    """Everything in a tree except its tensors, as a hashable value. `tensor` describes each tensor.

    `name` is the argument's own; `seen` are the objects described so far. All generators are described alike: the
    proof of a batch shows whether they are used.
    Raises OpaqueValue for a value that two calls cannot be shown to share.
    """
    kind = type(value)
    if kind in COMMON_TYPES:
        return value
    if isinstance(value, Tensor):
        return tensor(name, value)
    seen = {} if seen is None else seen
    if isinstance(value, dict):
        return kind, tuple([(key, describe(item, tensor, str(key), seen)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return kind, tuple([describe(item, tensor, name, seen) for item in value])
    if isinstance(value, slice):
        return slice, describe((value.start, value.stop, value.step), tensor, name, seen)
    if isinstance(value, VALUE_TYPES):
        return value
    if isinstance(value, torch.Generator):
        return torch.Generator
    if isinstance(value, IDENTITY_TYPES):
        return type(value), id(value)
    if isinstance(value, types.MethodType) and isinstance(value.__self__, IDENTITY_TYPES):
        return types.MethodType, id(value.__self__), value.__func__
    fields = object_fields(value)
    if fields is None and isinstance(value, types.FunctionType) and value.__closure__ is None:
        return value  # itself, so that no other function gets its id
    if fields is None or len(seen) > MAX_OBJECTS:
        raise OpaqueValue(f"{name} is a {kind.__name__}")
    if id(value) in seen:
        return kind, seen[id(value)]
    seen[id(value)] = len(seen)
    of = value.__code__ if isinstance(value, types.FunctionType) else None
    described = [(field, describe(item, tensor, f"{name}.{field}", seen)) for field, item in fields.items()]
    return kind, of, tuple(described)


def parts(value: Any) -> Mapping[Any, Any] | None:
    """What a container holds, by key, index or field. None for a value."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    return object_fields(value)


def object_fields(value: Any) -> dict[str, Any] | None:
    """The fields of a plain object, or what a function closes over. None for any other value."""
    if isinstance(value, types.FunctionType):
        return _enclosed(value)
    kind: Any = type(value)
    if isinstance(value, (*VALUE_TYPES, *IDENTITY_TYPES, Tensor)) or not _is_plain(kind):
        return None
    slots = {name: getattr(value, name) for name in _slot_names(kind) if hasattr(value, name)}
    return slots | getattr(value, "__dict__", {})


def _enclosed(function: types.FunctionType) -> dict[str, Any] | None:
    """The variables, defaults and attributes of a function. None if it closes over none, or one has no value yet."""
    try:
        values = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:
        return None
    if not values:
        return None
    enclosed = dict(zip(function.__code__.co_freevars, values, strict=True))
    return {**enclosed, DEFAULTS: function.__defaults__, KEYWORD_DEFAULTS: function.__kwdefaults__, **vars(function)}


@functools.cache
def _is_plain(kind: type) -> bool:
    """Whether objects of a class consist of their fields alone: nothing of them is kept in C, as in a set or a lock.

    It compares the size of an object with that of its fields, as Python does before it pickles one.
    """
    counted = len(_slot_names(kind)) + (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    has_fields = kind.__dictoffset__ != 0 or bool(_slot_names(kind))
    return has_fields and not kind.__itemsize__ and kind.__basicsize__ <= object.__basicsize__ + POINTER_BYTES * counted


def _slot_names(kind: type) -> list[str]:
    names: list[str] = copyreg._slotnames(kind)  # type: ignore[attr-defined]
    return names


def rebuild(template: Any, items: Mapping[Any, Any]) -> Any:
    """A container of the same type as `template`, with other items. Output objects of diffusers and transformers are
    mappings too."""
    if isinstance(template, dict):
        is_subclass = type(template) is not dict and all(isinstance(name, str) for name in items)
        return type(template)(**items) if is_subclass else dict(items)
    if isinstance(template, list | tuple):
        values = items.values()
        return type(template)(*values) if hasattr(template, "_fields") else type(template)(values)
    return fill(blank(template), items)


def blank(template: Any) -> Any:
    """An object or function like `template` whose fields have no values yet: `fill` sets them."""
    if not isinstance(template, types.FunctionType):
        return object.__new__(type(template))
    cells = tuple(types.CellType() for _ in template.__closure__ or ())
    return types.FunctionType(template.__code__, template.__globals__, template.__name__, None, cells)


def fill(container: Any, items: Mapping[Any, Any]) -> Any:
    """Give a list, a mapping, an object or a function these items instead of its own. Returns it."""
    if isinstance(container, list):
        container[:] = items.values()
    elif isinstance(container, dict):
        for name in [name for name in container if name not in items]:
            del container[name]
        for name, item in items.items():
            container[name] = item
    elif isinstance(container, types.FunctionType):
        for name, cell in zip(container.__code__.co_freevars, container.__closure__ or (), strict=True):
            cell.cell_contents = items[name]
        container.__defaults__, container.__kwdefaults__ = items[DEFAULTS], items[KEYWORD_DEFAULTS]
        known = {DEFAULTS, KEYWORD_DEFAULTS, *container.__code__.co_freevars}
        vars(container).update({name: item for name, item in items.items() if name not in known})
    else:
        for name in (object_fields(container) or {}).keys() - items.keys():
            object.__delattr__(container, name)
        for name, item in items.items():
            object.__setattr__(container, name, item)
    return container


def flat_values(value: Any) -> Iterator[Any]:
    """Every value of a tree, in order."""
    yield from _flat_values(value, set())


def _flat_values(value: Any, seen: set[int]) -> Iterator[Any]:
    items = parts(value)
    if items is None:
        yield value
    elif isinstance(value, dict | list | tuple) or id(value) not in seen:
        seen.add(id(value))
        for item in items.values():
            yield from _flat_values(item, seen)


def map_tensors(value: Any, tensor: Callable[[Tensor], Tensor], made: dict[int, Any] | None = None) -> Any:
    """A copy of the tree `value` in which `tensor` has replaced each tensor, in order.

    made: the copies of its objects so far
    """
    if isinstance(value, Tensor):
        return tensor(value)
    made = {} if made is None else made
    if isinstance(value, dict):
        return rebuild(value, {name: map_tensors(item, tensor, made) for name, item in value.items()})
    if isinstance(value, list | tuple):
        return rebuild(value, {i: map_tensors(item, tensor, made) for i, item in enumerate(value)})
    fields = object_fields(value)
    if fields is None:
        return value
    if id(value) not in made:
        made[id(value)] = copied = blank(value)
        made[id(value)] = fill(copied, {name: map_tensors(item, tensor, made) for name, item in fields.items()})
    return made[id(value)]


def is_finite(value: Any) -> bool:
    """Whether no tensor of a tree contains NaN or infinity."""
    floats = (item for item in flat_values(value) if isinstance(item, Tensor) and item.is_floating_point())
    return all(bool(torch.isfinite(item).all()) for item in floats)
