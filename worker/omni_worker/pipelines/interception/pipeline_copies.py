"""A copy of the pipeline for each request, in which every model call leaves the greenlet that makes it."""

import copy
import functools
import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.guiders import BaseGuidance
from diffusers.hooks import HookRegistry
from greenlet import getcurrent

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.collators import Collator, collator_of
from omni_worker.pipelines.components import ModelMethod, intercepted_methods, models
from omni_worker.pipelines.interception.adapters import Adapters
from omni_worker.pipelines.interception.conversions import Conversions
from omni_worker.pipelines.interception.model_copies import UNCHANGED, ModelCopy
from omni_worker.pipelines.request_context import RequestContext

ORIGINAL, MODEL_COPIES, OWN_COPY = "_omni_original", "_omni_model_copies", "_omni_own_copy"


class PipelineCopies:
    """Makes shallow copies of a pipeline and of the pipelines that it contains, with stand-ins for the models.

    A stand-in is the root of a `ModelCopy` with some methods replaced. When such a method is called, it suspends the
    greenlet and hands a Call to the driver of the greenlet.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._conversions = Conversions()
        self._adapters = {id(model): Adapters(model) for model in models(pipe).values()}
        self._has_stateful_hooks = any(map(_has_stateful_hooks, models(pipe).values()))
        self._methods = {
            id(model): [InterceptedMethod(name, model, method) for method in intercepted_methods(name, model)]
            for name, model in models(pipe).items()
        }

    def create(self, context: RequestContext, copy_timestep_scheduler: Callable[[Any], Any]) -> Any:
        """A copy for the request of `context`. `copy_timestep_scheduler` replaces each timestep scheduler."""
        return self._copy(self._pipe, context, copy_timestep_scheduler, {})

    @property
    def runs_whole(self) -> bool:
        """Whether a request must run from start to end without others, because the models keep state between calls.

        The feature caches of diffusers do: their hooks remember the last step's activations.
        """
        return self._has_stateful_hooks or any(
            getattr(model, "_cache_config", None) is not None for model in models(self._pipe).values()
        )

    def create_whole(self, copy_timestep_scheduler: Callable[[Any], Any]) -> Any:
        """A copy of the pipeline that runs the shared models without being suspended, after a reset of their state."""
        for model in models(self._pipe).values():
            if hasattr(model, "_reset_stateful_cache"):
                model._reset_stateful_cache()
        whole = copy.copy(self._pipe)
        for name, part in vars(self._pipe).items():
            if isinstance(part, SchedulerMixin):
                vars(whole)[name] = copy_timestep_scheduler(part)
            elif isinstance(part, BaseGuidance):
                vars(whole)[name] = copy.deepcopy(part)
        return whole

    def _copy(
        self,
        pipe: Any,
        context: RequestContext,
        copy_timestep_scheduler: Callable[[Any], Any],
        model_copies: dict[int, ModelCopy],
    ) -> Any:
        kind: Any = type(pipe)
        pipeline_copy = object.__new__(_copy_type(kind))
        attributes = vars(pipeline_copy)  # not setattr: it would write to the pipeline's configuration
        attributes.update(vars(pipe))
        for name, part in vars(pipe).items():
            if isinstance(part, torch.nn.Module) and id(part) in self._methods:
                attributes[name] = self._stand_in(part, context, model_copies)
            elif isinstance(part, SchedulerMixin):
                attributes[name] = copy_timestep_scheduler(part)
            elif isinstance(part, BaseGuidance):  # it remembers the step, and sums over the previous steps
                attributes[name] = copy.deepcopy(part)
            elif isinstance(part, DiffusionPipeline):
                attributes[name] = self._copy(part, context, copy_timestep_scheduler, model_copies)
            elif type(part) is list:
                attributes[name] = [self._stand_in_or_same(item, context, model_copies) for item in part]
            elif type(part) is dict:
                attributes[name] = {
                    key: self._stand_in_or_same(item, context, model_copies) for key, item in part.items()
                }
        attributes[ORIGINAL], attributes[MODEL_COPIES] = pipe, model_copies
        return pipeline_copy

    def _stand_in_or_same(self, item: Any, context: RequestContext, model_copies: dict[int, ModelCopy]) -> Any:
        return self._stand_in(item, context, model_copies) if id(item) in self._methods else item

    def _stand_in(
        self, model: torch.nn.Module, context: RequestContext, model_copies: dict[int, ModelCopy]
    ) -> torch.nn.Module:
        if id(model) in model_copies:
            return model_copies[id(model)].root
        kind: Any = type(model)
        own = ModelCopy(model, self._conversions, self._adapters[id(model)], _stand_in_type(kind))
        model_copies[id(model)] = own
        attributes = vars(own.root)
        if hasattr(model, "cache_context"):
            # The first call would make it, and look like a change; without hooks it would search them in each call.
            attributes["_diffusers_hook"] = registry = HookRegistry(weakref.proxy(own.root))
            registry._child_registries_cache = []
            attributes["_reset_stateful_cache"] = functools.partial(_reset_if_changed, weakref.ref(own))
        for intercepted in self._methods[id(model)]:
            attributes[intercepted.method.name] = intercepted.suspending(context, own)
        if isinstance(model, ModelMixin):
            attributes[OWN_COPY] = weakref.ref(own)
        own.accept_root()
        return own.root


class InterceptedMethod:
    """One method of one model, which a request calls through its stand-in."""

    def __init__(self, name: str, model: torch.nn.Module, method: ModelMethod) -> None:
        self.method = method
        self._name = name if method.name == "forward" else f"{name}.{method.name}"
        self._real: Callable[..., Any] = getattr(model, method.name)
        self._function: Callable[..., Any] = getattr(self._real, "__func__", getattr(type(model), method.name))
        self._collator: Collator | None = collator_of(model) if method.name == "forward" else None
        self._positional = _positional_names(self._real)

    def suspending(self, context: RequestContext, model_copy: ModelCopy) -> Callable[..., Any]:
        """The replacement for a stand-in: it suspends the greenlet and hands over a Call.

        The call runs the shared model, unless the pipeline has changed its copy. Then it runs the copy.
        """
        weak_copy = weakref.ref(model_copy)

        @functools.wraps(self._real)
        def suspend(*args: Any, **kwargs: Any) -> Any:
            driver, own = getcurrent().parent, weak_copy()
            assert own is not None, "the copy of the pipeline holds it"
            changes = own.changes()
            real = self._real if changes == UNCHANGED else self._of_copy(own.root)
            if driver is None:  # not inside a request: nobody would resume it
                return real(*args, **kwargs)
            if len(args) <= len(self._positional):
                args, kwargs = (), dict(zip(self._positional, args, strict=False)) | kwargs
            call = Call(self.method.phase, self._name, real, args, kwargs, context, self._collator, changes)
            return driver.switch(call)

        return suspend

    def _of_copy(self, root: torch.nn.Module) -> Callable[..., Any]:
        """The method of a request's copy. As for the shared model, an offload hook first moves it to the device."""
        hook, real = vars(root).get("_hf_hook"), types.MethodType(self._function, root)
        if hook is None or self.method.name != "forward":  # diffusers calls it in the others
            return real

        def moved(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = hook.pre_forward(root, *args, **kwargs)
            return real(*args, **kwargs)

        return moved


@functools.cache
def _copy_type(pipe_type: Any) -> Any:
    """The class of a pipeline's copies. It finds the device without a walk through all modules, which copies them."""

    def execution_device(self: Any) -> torch.device:
        if any(own.is_changed for own in vars(self)[MODEL_COPIES].values()):
            return super(copy_type, self)._execution_device
        return vars(self)[ORIGINAL]._execution_device

    copy_type = _subclass(pipe_type, _execution_device=property(execution_device))
    return copy_type


@functools.cache
def _stand_in_type(model_type: Any) -> Any:
    """The class of a model's stand-ins. For the same reason, unchanged ones have the model's own device and dtype."""
    if not issubclass(model_type, ModelMixin):
        return model_type

    def read(name: str) -> property:
        def get(self: Any) -> Any:
            own = vars(self)[OWN_COPY]()
            return getattr(super(stand_in_type, self) if own is None or own.is_changed else own.model, name)

        return property(get)

    stand_in_type = _subclass(model_type, dtype=read("dtype"), device=read("device"))
    return stand_in_type


def _subclass(base: Any, **attributes: Any) -> Any:
    """A subclass that looks like its base."""
    names = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(base)(base.__name__, (base,), {**names, **attributes})


def _reset_if_changed(model_copy: "weakref.ref[ModelCopy]", recurse: bool = True) -> None:
    """Reset the state that the hooks of a stand-in keep. Only the request itself can have put hooks there."""
    own = model_copy()
    if own is not None and own.is_changed:
        type(own.root)._reset_stateful_cache(own.root, recurse)


def _has_stateful_hooks(model: torch.nn.Module) -> bool:
    registries = [vars(module)["_diffusers_hook"] for module in model.modules() if "_diffusers_hook" in vars(module)]
    return any(hook._is_stateful for registry in registries for hook in registry.hooks.values())


def _positional_names(function: Callable[..., Any]) -> list[str]:
    """The names of the parameters that can be given by position or by name."""
    names = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            break
        names.append(parameter.name)
    return names
