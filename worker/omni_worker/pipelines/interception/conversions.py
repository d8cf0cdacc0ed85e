"""Weights that a request converts to another dtype, device or memory format, kept apart from the shared ones.

A pipeline may cast a model in the middle of its call (SDXL decodes in float32) and cast it back later. The shared
weights stay as they are: the request's copy of the model gets converted ones. Requests that convert in the same way
share the converted weights, which are freed with the last of these requests.
"""

from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

SOURCE = "_omni_converted_from"  # an attribute of converted tensors: (the tensor that was converted, the target)
CONVERTING_METHODS = ("to", "half", "float", "double", "bfloat16", "cuda", "cpu", "xpu", "ipu", "type")
TENSOR_TYPES = (Tensor, torch.nn.Parameter)

ALIASED = "_omni_alias_of"  # an attribute of aliases: the tensor whose memory they share

Target = tuple[torch.dtype, torch.device, tuple[int, ...]]


class Conversions:
    """Converts tensors of modules without changing them. One for all requests, so that they share the results."""

    def __init__(self) -> None:
        self._converted: WeakValueDictionary[tuple[int, Target], Tensor] = WeakValueDictionary()

    def convert(self, tensor: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """What replaces `tensor` when its module's `_apply(function)` is called."""
        converted = self._convert(shared(tensor), function)
        return tensor if converted is shared(tensor) else alias(converted)

    def _convert(self, tensor: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        if not _is_conversion(function) or type(tensor) not in TENSOR_TYPES:
            return _like(tensor, function)
        probe = tensor.detach().new_empty((2,) * tensor.dim())
        converted_probe = function(probe)
        target = _target(converted_probe)
        if target == _target(probe):
            return tensor
        source = tensor
        while (origin := getattr(source, SOURCE, None)) is not None and _is_lossless(origin[0], source):
            source = origin[0]
        if source is not tensor and target == _target(source.detach().new_empty((2,) * source.dim())):
            return source
        key = id(source), target  # the converted tensor keeps its source alive, so the id stays its own
        found = self._converted.get(key)
        if found is None:
            found = self._converted[key] = _like(source, function)
            setattr(found, SOURCE, (source, target))
        return found


def alias(tensor: Tensor) -> Tensor:
    """A tensor that shares the memory of another one, for one request. To assign to its `data` changes only itself."""
    if type(tensor) not in TENSOR_TYPES:
        return tensor
    own = tensor.detach()
    if isinstance(tensor, torch.nn.Parameter):
        own = torch.nn.Parameter(own, tensor.requires_grad)
    setattr(own, ALIASED, tensor)
    return own


def shared(tensor: Tensor) -> Tensor:
    """The tensor of which `tensor` is an alias. It is `tensor` itself if other data has been assigned to it."""
    original: Tensor | None = getattr(tensor, ALIASED, None)
    if original is None or original.data_ptr() != tensor.data_ptr() or original.dtype != tensor.dtype:
        return tensor
    return original


def conversion(tensor: Tensor, original: Tensor) -> Hashable | None:
    """How `tensor` was converted from `original`: equal for equal conversions. None if it was not."""
    tensor, original = shared(tensor), shared(original)
    targets: list[Target] = []
    while tensor is not original:
        origin = getattr(tensor, SOURCE, None)
        if origin is None:
            return None
        tensor, target = origin
        targets.append(target)
    return tuple(targets)


def _is_conversion(function: Callable[..., Any]) -> bool:
    """Whether a function that was passed to `_apply` only converts, so that equal targets mean equal results."""
    name = getattr(function, "__qualname__", "").split(".")
    return len(name) > 1 and name[0] == "Module" and name[1] in CONVERTING_METHODS


def _target(tensor: Tensor) -> Target:
    return tensor.dtype, tensor.device, tensor.stride()


def _is_lossless(source: Tensor, converted: Tensor) -> bool:
    return bool(torch.promote_types(source.dtype, converted.dtype) == converted.dtype)


def _like(tensor: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The function's result, as a parameter if `tensor` is one."""
    with torch.no_grad():
        result = function(tensor)
    if result is tensor or not isinstance(tensor, torch.nn.Parameter):
        return result
    return torch.nn.Parameter(result, tensor.requires_grad)
