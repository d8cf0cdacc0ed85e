"""Copies of a pipeline for single requests, whose model calls leave the greenlet that they are made in."""

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
from omni_worker.pipelines.components import Method, methods, models
from omni_worker.pipelines.request_context import RequestContext


class Shells:
    """Makes shallow copies of a pipeline, and of the pipelines that it is made of, with stand-ins for the models.

    A stand-in is a shallow copy of the model (same class, same weights, same attributes) some of whose methods are
    replaced: called, they suspend the greenlet and hand a Call to whoever drives it.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._doors = {
            id(model): [Door(name, model, method) for method in methods(name, model)]
            for name, model in models(pipe).items()
        }

    def make(self, context: RequestContext, own_solver: Callable[[Any], Any]) -> Any:
        """A copy for the request of `context`; `own_solver` gives what takes the place of a timestep scheduler."""
        return self._copy(self._pipe, context, own_solver)

    def _copy(self, pipe: Any, context: RequestContext, own_solver: Callable[[Any], Any]) -> Any:
        shell = copy.copy(pipe)
        own = vars(shell)  # not setattr: that would write to the pipeline's configuration
        for name, part in vars(pipe).items():
            if isinstance(part, torch.nn.Module) and id(part) in self._doors:
                own[name] = self._stand_in(part, context)
            elif isinstance(part, SchedulerMixin):
                own[name] = own_solver(part)
            elif isinstance(part, BaseGuidance):  # remembers the step, and sums over the steps before
                own[name] = copy.deepcopy(part)
            elif isinstance(part, DiffusionPipeline):
                own[name] = self._copy(part, context, own_solver)
        return shell

    def _stand_in(self, model: torch.nn.Module, context: RequestContext) -> torch.nn.Module:
        twin = copy.copy(model)
        if hasattr(twin, "cache_context"):
            HookRegistry.check_if_exists_or_initialize(twin)  # the first call would do it, and look like a change
        twin_as_made: dict[str, Any] = {}
        for door in self._doors[id(model)]:
            vars(twin)[door.method.name] = door.suspending(context, twin, twin_as_made)
        twin_as_made.update(vars(twin))
        return twin


class Door:
    """One method of one model, through which a request's calls leave its greenlet."""

    def __init__(self, name: str, model: torch.nn.Module, method: Method) -> None:
        self.method = method
        self._name = name if method.name == "forward" else f"{name}.{method.name}"
        self._real: Callable[..., Any] = getattr(model, method.name)
        self._function: Callable[..., Any] | None = getattr(self._real, "__func__", None)
        self._collator: Collator | None = collator_of(model) if method.name == "forward" else None
        self._positional = _positional_names(self._real)

    def suspending(
        self, context: RequestContext, twin: torch.nn.Module, twin_as_made: dict[str, Any]
    ) -> Callable[..., Any]:
        """The method for a stand-in. Where the pipeline has set attributes of its stand-in, that is what must run."""

        @functools.wraps(self._real)
        def suspend(*args: Any, **kwargs: Any) -> Any:
            driver = getcurrent().parent
            own = vars(twin)
            is_changed = len(own) != len(twin_as_made) or not all(map(is_, own.values(), twin_as_made.values()))
            real = types.MethodType(self._function, twin) if is_changed and self._function else self._real
            if driver is None:  # not inside a request: nobody would resume it
                return real(*args, **kwargs)
            if len(args) <= len(self._positional):
                args, kwargs = (), dict(zip(self._positional, args, strict=False)) | kwargs
            call = Call(self.method.phase, self._name, real, args, kwargs, context, self._collator, not is_changed)
            return driver.switch(call)

        return suspend


def _positional_names(function: Callable[..., Any]) -> list[str]:
    """The names by which arguments given in order could be given too."""
    names = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            break
        names.append(parameter.name)
    return names
