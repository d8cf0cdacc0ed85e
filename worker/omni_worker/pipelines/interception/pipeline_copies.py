"""A copy of the pipeline for each request, in which every model call leaves the greenlet that makes it."""

import copy
import functools
import inspect
import types
from collections.abc import Callable
from operator import is_
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.guiders import BaseGuidance
from diffusers.hooks import HookRegistry
from greenlet import getcurrent

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.collators import Collator, collator_of
from omni_worker.pipelines.components import ModelMethod, intercepted_methods, models
from omni_worker.pipelines.request_context import RequestContext


class PipelineCopies:
    """Makes shallow copies of a pipeline and of the pipelines that it contains, with stand-ins for the models.

    A stand-in is a shallow copy of the model (same class, same weights, same attributes) with some methods replaced.
    When such a method is called, it suspends the greenlet and hands a Call to the driver of the greenlet.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._methods = {
            id(model): [InterceptedMethod(name, model, method) for method in intercepted_methods(name, model)]
            for name, model in models(pipe).items()
        }

    def create(self, context: RequestContext, copy_timestep_scheduler: Callable[[Any], Any]) -> Any:
        """A copy for the request of `context`. `copy_timestep_scheduler` replaces each timestep scheduler."""
        return self._copy(self._pipe, context, copy_timestep_scheduler)

    def _copy(self, pipe: Any, context: RequestContext, copy_timestep_scheduler: Callable[[Any], Any]) -> Any:
        pipeline_copy = copy.copy(pipe)
        attributes = vars(pipeline_copy)  # not setattr: it would write to the pipeline's configuration
        for name, part in vars(pipe).items():
            if isinstance(part, torch.nn.Module) and id(part) in self._methods:
                attributes[name] = self._stand_in(part, context)
            elif isinstance(part, SchedulerMixin):
                attributes[name] = copy_timestep_scheduler(part)
            elif isinstance(part, BaseGuidance):  # it remembers the step, and sums over the previous steps
                attributes[name] = copy.deepcopy(part)
            elif isinstance(part, DiffusionPipeline):
                attributes[name] = self._copy(part, context, copy_timestep_scheduler)
        return pipeline_copy

    def _stand_in(self, model: torch.nn.Module, context: RequestContext) -> torch.nn.Module:
        stand_in = copy.copy(model)
        if hasattr(stand_in, "cache_context"):
            HookRegistry.check_if_exists_or_initialize(stand_in)  # the first call would do it, and look like a change
        original_attributes: dict[str, Any] = {}
        for intercepted in self._methods[id(model)]:
            vars(stand_in)[intercepted.method.name] = intercepted.suspending(context, stand_in, original_attributes)
        original_attributes.update(vars(stand_in))
        return stand_in


class InterceptedMethod:
    """One method of one model, which a request calls through its stand-in."""

    def __init__(self, name: str, model: torch.nn.Module, method: ModelMethod) -> None:
        self.method = method
        self._name = name if method.name == "forward" else f"{name}.{method.name}"
        self._real: Callable[..., Any] = getattr(model, method.name)
        self._function: Callable[..., Any] | None = getattr(self._real, "__func__", None)
        self._collator: Collator | None = collator_of(model) if method.name == "forward" else None
        self._positional = _positional_names(self._real)

    def suspending(
        self, context: RequestContext, stand_in: torch.nn.Module, original_attributes: dict[str, Any]
    ) -> Callable[..., Any]:
        """The replacement for a stand-in: it suspends the greenlet and hands over a Call.

        The call runs the shared model, unless the pipeline has changed attributes of its stand-in since
        `original_attributes`. Then it runs the stand-in, and shares no batch.
        """

        @functools.wraps(self._real)
        def suspend(*args: Any, **kwargs: Any) -> Any:
            driver = getcurrent().parent
            attributes = vars(stand_in)
            is_changed = len(attributes) != len(original_attributes) or not all(
                map(is_, attributes.values(), original_attributes.values())
            )
            real = types.MethodType(self._function, stand_in) if is_changed and self._function else self._real
            if driver is None:  # not inside a request: nobody would resume it
                return real(*args, **kwargs)
            if len(args) <= len(self._positional):
                args, kwargs = (), dict(zip(self._positional, args, strict=False)) | kwargs
            call = Call(self.method.phase, self._name, real, args, kwargs, context, self._collator, not is_changed)
            return driver.switch(call)

        return suspend


def _positional_names(function: Callable[..., Any]) -> list[str]:
    """The names of the parameters that can be given by position or by name."""
    names = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            break
        names.append(parameter.name)
    return names
