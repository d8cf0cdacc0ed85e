"""A request's own copy of a model: everything a pipeline can change is private, and only the weights are shared.

A copy consists of shallow copies of the model's modules, which are made when the pipeline reaches for them. So a
request can change a submodule's attributes, hooks, adapters, processors, dtype or device, and no other request sees it.
As long as a copy is unchanged, its calls run the shared model, in batches with those of other requests.
"""

import copy
import functools
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from diffusers.hooks import HookRegistry
from torch import Tensor
from torch.nn import Module

from omni_worker.pipelines.interception.adapters import Adapters, kept
from omni_worker.pipelines.interception.conversions import Conversions, alias, conversion, shared
from omni_worker.pipelines.interception.lazy_modules import LazyModules
from omni_worker.pipelines.interception.private_methods import PrivateApply, rebound, with_own_weights

SIMPLE_TYPES = frozenset({bool, int, float, str, bytes, type(None), torch.dtype, torch.device, torch.Size})
CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)
UNCOPIED_TYPES = (Module, Tensor, type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, weakref.ref)
UNCHANGED: tuple[Hashable, ...] = ()


class Incomparable(Exception):
    """A change whose effect cannot be compared with another request's."""


@dataclass(slots=True)
class CopiedModule:
    """One module of a copy, and how it was when it was made.

    names, values: its attributes
    empty: of attributes that are containers: those that contained nothing, like most modules' many dicts of hooks
    contents: of other attributes that are containers or plain objects: the request's own one, and what it contained
    """

    original: Module
    copy: Module
    names: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()
    empty: tuple[Any, ...] = ()
    contents: tuple[tuple[Any, Any], ...] = ()


class ModelCopy:
    """A request's copy of `model`. `root` takes the model's place in the request's pipeline.

    It is freed with the request at once: only it refers to its modules, and these refer to it weakly.

    keeps_state: whether its calls depend on the request's earlier ones, so that they always run it, alone
    """

    def __init__(
        self, model: Module, conversions: Conversions, adapters: Adapters, root_type: type[Module] | None = None
    ) -> None:
        self.model = model
        self.conversions = conversions
        self._adapters = adapters
        self._adapters_at_start = adapters.state()
        self._adapter_values = adapters.values()
        self._modules: dict[int, CopiedModule] = {}
        self._objects: dict[int, Any] = {}
        self._hooked: str | None = None
        self.keeps_state = False
        self.root = self._copy(model, root_type or type(model))

    def of(self, module: Module) -> Module:
        """The request's copy of a module of the model."""
        known = self._modules.get(id(module))
        if known is not None:
            return known.copy
        if isinstance(module, torch.jit.ScriptModule):  # it has no attributes in Python
            return module
        return self._copy(module, type(module))

    def is_copy(self, value: Any, module: Any) -> bool:
        """Whether `value` is the copy of `module`."""
        known = self._modules.get(id(module))
        return known is not None and known.copy is value

    def accept_root(self) -> None:
        """Take the root as it is now for unchanged."""
        self._remember(self._modules[id(self.model)])

    def keep_state(self) -> None:
        """From now on, run each call in this copy, whose hooks keep state. Take it as it is now for unchanged."""
        self.keeps_state = True
        for copied in self._modules.values():
            self._remember(copied)

    @property
    def is_changed(self) -> bool:
        """Whether the request has changed anything in its copy."""
        return any(map(self._is_changed, self._modules.values()))

    def changes(self) -> Hashable | None:
        """What the request has changed: equal for changes of equal effect, `UNCHANGED` if nothing is.

        None if the changes cannot be compared. Raises RuntimeError if such a change cannot be kept to the request.
        """
        selected = self._keep_adapters()
        if self.keeps_state:
            return None
        changed = [module for module in self._modules.values() if self._is_changed(module)]
        if not changed:
            return selected
        if self._hooked is not None:
            raise RuntimeError(
                f"the pipeline changes its {type(self.model).__name__} during the call, but diffusers' hooks run in a "
                f"{self._hooked} of it; load this model without such hooks (caches, offloading, layerwise casting)"
            )
        try:
            described = sorted([(id(module.original), *self._describe(module)) for module in changed], key=_first)
        except Incomparable:
            return None
        return *selected, *described

    def _keep_adapters(self) -> tuple[Hashable, ...]:
        """Copy the adapter layers as they were at the request's start, if others have been selected since.

        Returns what distinguishes the copy from the model as it is now; empty if that is nothing.
        """
        now = self._adapters.state()
        if now == self._adapters_at_start:
            return UNCHANGED
        if not kept(self._adapters_at_start, now):
            raise RuntimeError(
                f"adapters of the {type(self.model).__name__} were added, removed or fused while this request ran"
            )
        for layer in self._adapters.layers.values():
            self.of(layer)
        return ("adapters", self._adapters_at_start)

    def _copy(self, module: Module, kind: type[Module]) -> Module:
        duplicate = object.__new__(kind)
        copied = self._modules[id(module)] = CopiedModule(module, duplicate)
        attributes = vars(duplicate)
        for name, value in vars(module).items():
            if name == "_diffusers_hook" and not value.hooks:  # it would register new hooks in the original
                continue
            attributes[name] = self._own(name, value, module, duplicate)
        for name, value in self._adapter_values.get(id(module), {}).items():
            if name in attributes:
                attributes[name] = self._own(name, value, module, duplicate)
        attributes["_apply"] = PrivateApply(duplicate, self.conversions)
        if hasattr(module, "merge") and hasattr(module, "base_layer"):  # a LoRA layer, which adds to the base's weights
            for name in ("merge", "unmerge"):
                attributes[name] = functools.partial(with_own_weights, weakref.ref(duplicate), name)
        self._remember(copied)
        return duplicate

    def _own(self, name: str, value: Any, module: Module, duplicate: Module) -> Any:
        """What the copy of a module gets for one of its attributes."""
        kind = type(value)
        if kind in SIMPLE_TYPES:
            return value
        if name == "_modules":
            return LazyModules(self, value)
        if name in ("_parameters", "_buffers"):
            return type(value)((key, self._own_tensor(tensor)) for key, tensor in value.items())
        if kind in CONTAINERS:
            return self._own_container(value)
        if name == "_compiled_call_impl":  # compiled for the original
            return None
        if isinstance(value, Module):
            return self.of(value)
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, duplicate) if value.__self__ is module else value
        if isinstance(value, functools.partial):
            return rebound(value, module, duplicate)
        if name == "forward" and (uncompiled := getattr(value, "_torchdynamo_orig_callable", None)) is not None:
            return self._own(name, uncompiled, module, duplicate)
        if name == "_diffusers_hook":
            self._hooked = type(module).__name__
            return value
        return self._own_object(value)

    def _own_container(self, value: Any) -> Any:
        if not value:
            return value.copy()
        if isinstance(value, list):
            return [self.of(item) if isinstance(item, Module) else item for item in value]
        if isinstance(value, dict) and any(isinstance(item, Module) for item in value.values()):
            return {name: self.of(item) if isinstance(item, Module) else item for name, item in value.items()}
        return value.copy()

    def _own_tensor(self, tensor: Tensor | None) -> Tensor | None:
        """A weight of the copy. One that modules share stays shared."""
        if tensor is None:
            return None
        if id(tensor) not in self._objects:
            self._objects[id(tensor)] = alias(tensor)
        return self._objects[id(tensor)]

    def _own_object(self, value: Any) -> Any:
        """A shallow copy of a plain object, such as an attention processor. Objects that modules share stay shared."""
        if isinstance(value, (*UNCOPIED_TYPES, *CONTAINERS)) or not hasattr(value, "__dict__"):
            return value
        if type(value).__module__.partition(".")[0] == "torch":  # a stream, an operator
            return value
        if id(value) not in self._objects:
            try:
                self._objects[id(value)] = copy.copy(value)
            except Exception:  # an object may forbid it in any way; then it is shared, as in diffusers
                self._objects[id(value)] = value
        return self._objects[id(value)]

    def _remember(self, copied: CopiedModule) -> None:
        attributes = vars(copied.copy)
        copied.names, copied.values = tuple(attributes), tuple(attributes.values())
        mutable = [value for value in copied.values if _has_contents(value)]
        copied.empty = tuple(value for value in mutable if _is_container(value) and not value)
        copied.contents = tuple((value, _contents(value)) for value in mutable if value or not _is_container(value))

    def _is_changed(self, module: CopiedModule) -> bool:
        attributes = vars(module.copy)
        if len(attributes) != len(module.values):
            return True
        if not all(map(is_, attributes.values(), module.values)) and any(
            name not in attributes or not _is_same(attributes[name], value)
            for name, value in zip(module.names, module.values, strict=True)
        ):
            return True
        return any(module.empty) or any(not self._has_same(value, before) for value, before in module.contents)

    def _has_same(self, value: Any, before: Any) -> bool:
        """Whether a container or an object contains what it contained before."""
        if isinstance(value, LazyModules):
            return value.raw().keys() == before.keys() and all(
                item is before[name] or self.is_copy(item, before[name]) for name, item in value.raw().items()
            )
        now = _contents(value)
        if not now and not before:
            return True
        if len(now) != len(before):
            return False
        if isinstance(now, dict):
            return all(name in now and _is_same(now[name], item) for name, item in before.items())
        return now == before if isinstance(now, set) else all(map(_is_same, now, before))

    def _describe(self, module: CopiedModule) -> tuple[Hashable, ...]:
        """What has changed in a module. Raises Incomparable."""
        attributes, before = vars(module.copy), dict(zip(module.names, module.values, strict=True))
        found: list[Hashable] = [
            (name, _description(attributes[name], before.get(name)))
            for name in attributes
            if name not in before or not _is_same(attributes[name], before[name])
        ]
        found += [(name, None) for name in before.keys() - attributes.keys()]
        names = {id(value): name for name, value in before.items()}
        for value, content in (*module.contents, *((value, {}) for value in module.empty)):
            if self._has_same(value, content) or attributes.get(names[id(value)]) is not value:
                continue
            if not isinstance(value, dict) or isinstance(value, LazyModules) or value.keys() != content.keys():
                raise Incomparable
            changed = [(key, item) for key, item in value.items() if not _is_same(item, content[key])]
            found.append((names[id(value)], *((key, _description(item, content[key])) for key, item in changed)))
        return tuple(found)


def _is_container(value: Any) -> bool:
    return type(value) in CONTAINERS or type(value) is LazyModules


def _has_contents(value: Any) -> bool:
    """Whether a request may change what is in a value, instead of replacing it."""
    uncopied = (*UNCOPIED_TYPES, *CONTAINERS, PrivateApply, functools.partial, types.MethodType, HookRegistry)
    return _is_container(value) or (hasattr(value, "__dict__") and not isinstance(value, uncopied))


def _contents(value: Any) -> Any:
    """What is in a container or an object now."""
    if isinstance(value, LazyModules):
        return value.raw()
    if isinstance(value, dict):
        return {name: shared(item) if isinstance(item, Tensor) else item for name, item in value.items()}
    return value.copy() if _is_container(value) else dict(vars(value))


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return shared(one) is shared(other)
    return one is other or (type(one) is type(other) and type(one) in SIMPLE_TYPES and bool(one == other))


def _description(value: Any, before: Any) -> Hashable:
    """A changed value, such that equal descriptions mean equal effect. Raises Incomparable."""
    if type(value) in SIMPLE_TYPES:
        return value  # type: ignore[no-any-return]
    if isinstance(value, Tensor) and isinstance(before, Tensor) and (how := conversion(value, before)) is not None:
        return how
    if isinstance(value, (*UNCOPIED_TYPES, *CONTAINERS, types.MethodType)) or getattr(value, "__dict__", None):
        raise Incomparable
    return f"{type(value).__module__}.{type(value).__qualname__} {id(type(value))}"


def _first(entry: tuple[Any, ...]) -> Any:
    return entry[0]
