"""Any diffusers pipeline as a step pipeline, by interception of its model calls.

Each request runs the pipeline's own, unmodified `__call__` in a greenlet, on a shallow copy of the pipeline: its models
are replaced by stand-ins, its timestep schedulers by the request's own. A stand-in is a shallow copy of the model (same
class, same weights, same attributes) some of whose methods are replaced: called, they suspend the greenlet and hand the
arguments to whoever drives it. To resume the greenlet with an answer is to continue the pipeline's own code. So outputs
equal diffusers' own, abort is an exception thrown in, and to wait is not to resume.
"""

import copy
import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.guiders import BaseGuidance
from greenlet import getcurrent, greenlet

from omni_worker.pipelines.arguments import CallArguments
from omni_worker.pipelines.calls import DENOISE, Call
from omni_worker.pipelines.collators import Collator, collator_of
from omni_worker.pipelines.context import ModelState, RequestContext
from omni_worker.pipelines.models import Method, methods, models
from omni_worker.pipelines.protocol import StepState
from omni_worker.pipelines.proving import ProvenBatches
from omni_worker.pipelines.results import result_of
from omni_worker.pipelines.solvers import own_solver
from omni_worker.requests import ServingDefaults

BOOKKEEPING = frozenset({"_diffusers_hook"})  # diffusers' registry of caches, made where there is none


class InterceptedPipeline:
    """A step pipeline around a loaded `diffusers.DiffusionPipeline`.

    concurrent: whether requests run interleaved
    batches: runs their calls, and knows which may run together
    """

    supports_step_execution: ClassVar[bool] = True

    def __init__(
        self,
        pipe: Any,
        defaults: ServingDefaults | None = None,
        concurrent: bool = True,
        batches: ProvenBatches | None = None,
    ) -> None:
        pipe.set_progress_bar_config(disable=True)
        self._pipe = pipe
        self._concurrent = concurrent
        self._arguments = CallArguments(pipe, defaults or ServingDefaults())
        self.card = self._arguments.card(pipe, mode="step")
        self.batches = batches or ProvenBatches()
        intercepted = models(pipe)
        self._model_state = ModelState(list(intercepted.values()))
        self._doors = {
            id(model): [Door(name, model, method) for method in methods(name, model)]
            for name, model in intercepted.items()
        }

    def prepare_encode(self, state: StepState) -> None:
        if isinstance(state.params, Mapping):
            kwargs, seed = dict(state.params), None
        else:
            kwargs, seed = self._arguments.build(state.params), state.params.seed
        context = state.extra["context"] = RequestContext(state.request_id, self._model_state, seed)
        shell = self._shell(self._pipe, state, context)
        state.extra["run"] = greenlet(lambda: shell(**kwargs))
        self._resume(state)

    def denoise_step(self, states: Sequence[StepState]) -> list[Any]:
        return self.batches.run([state.extra["call"] for state in states])

    def step_scheduler(self, state: StepState, prediction: Any) -> None:
        self._resume(state, prediction)

    def post_decode(self, state: StepState) -> Any:
        output = state.extra["output"]
        return output if isinstance(state.params, Mapping) else result_of(output, state.step)

    def close(self, state: StepState) -> None:
        run: greenlet | None = state.extra.get("run")
        context: RequestContext | None = state.extra.get("context")
        state.extra.clear()
        if run is not None and context is not None and not run.dead:
            with context.active():
                run.throw()

    @property
    def proofs(self) -> int:
        return self.batches.proofs

    def stats(self) -> dict[str, int]:
        return self.batches.stats()

    def _resume(self, state: StepState, *answer: Any) -> None:
        run: greenlet = state.extra["run"]
        state.extra.pop("call", None)
        with state.extra["context"].active():
            value = run.switch(*answer)
        if run.dead:
            state.key, state.extra["output"] = None, value
        else:
            state.extra["call"] = value
            state.key, state.in_loop = self.batches.key_of(value), value.phase == DENOISE

    def _shell(self, pipe: Any, state: StepState, context: RequestContext) -> Any:
        """A copy of the pipeline for one request, and of the pipelines that it is made of."""
        shell = copy.copy(pipe)
        own = vars(shell)  # not setattr: that would write to the pipeline's configuration
        for name, part in vars(pipe).items():
            if isinstance(part, torch.nn.Module) and id(part) in self._doors:
                own[name] = self._stand_in(part, context)
            elif isinstance(part, SchedulerMixin):
                own[name] = own_solver(part, state, self._concurrent)
            elif isinstance(part, BaseGuidance):  # remembers the step, and sums over the steps before
                own[name] = copy.deepcopy(part)
            elif isinstance(part, DiffusionPipeline):
                own[name] = self._shell(part, state, context)
        return shell

    def _stand_in(self, model: torch.nn.Module, context: RequestContext) -> torch.nn.Module:
        twin = copy.copy(model)
        twin_as_made = vars(twin).copy()
        for door in self._doors[id(model)]:
            vars(twin)[door.method.name] = twin_as_made[door.method.name] = door.suspending(context, twin, twin_as_made)
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
            is_changed = any(
                twin_as_made.get(name) is not value for name, value in vars(twin).items() if name not in BOOKKEEPING
            )
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
