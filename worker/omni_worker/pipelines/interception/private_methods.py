"""The methods by which a module changes its weights in place, replaced in copies of modules."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from omni_worker.pipelines.interception.conversions import Conversions


class PrivateApply:
    """Replaces `_apply` of a copied module: `to`, `half` and others convert the copy, not the shared weights."""

    def __init__(self, module: Module, conversions: Conversions) -> None:
        self._module = weakref.ref(module)
        self._conversions = conversions

    def __call__(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Module:
        module = self._module()
        assert module is not None, "it is called through the module"
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            if type(module)._apply is not Module._apply:  # it does more, as recurrent layers do
                return type(module)._apply(module, function, recurse)
            for child in module.children() if recurse else ():
                child._apply(function)
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = self._conversions.convert(tensor, function)
        return module

    def __deepcopy__(self, memo: dict[int, Any]) -> "PrivateApply":
        return PrivateApply(memo.get(id(self._module()), self._module()), self._conversions)


def with_own_weights(module: "weakref.ref[Any]", method: str, *args: Any, **kwargs: Any) -> Any:
    """Call a method that adds to the weights of a layer in place, after giving the layer weights of its own."""
    layer = module()
    assert layer is not None, "the method is called through the layer"
    for base in layer.base_layer.modules():
        for name, parameter in base._parameters.items():
            if parameter is not None:
                base._parameters[name] = torch.nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
    return getattr(type(layer), method)(layer, *args, **kwargs)


def rebound(value: functools.partial[Any], module: Module, duplicate: Module) -> functools.partial[Any]:
    """The same partial function, with a module's copy in the module's place."""
    if all(argument is not module for argument in value.args):
        return value
    arguments = [duplicate if argument is module else argument for argument in value.args]
    rebound = functools.partial(value.func, *arguments, **value.keywords)
    vars(rebound).update(vars(value))
    return rebound
