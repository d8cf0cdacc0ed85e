"""Any diffusers pipeline as a step pipeline, by interception of its model calls.

Each request runs the pipeline's own, unmodified `__call__` in a greenlet, on a shallow copy of the pipeline: its
models are replaced by stand-ins, its timestep scheduler by the request's own clone. A stand-in is a shallow copy of
the model (same class, same weights, same attributes) of which one method is replaced: called, it suspends the
greenlet and hands the arguments to whoever drives it. To resume the greenlet with an answer is to continue the
pipeline's own code. So outputs equal diffusers' own, abort is an exception thrown in, and to wait is not to resume.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from greenlet import getcurrent, greenlet

from omni_worker.pipelines.arguments import CallArguments
from omni_worker.pipelines.batching import Call, ProvenBatches
from omni_worker.pipelines.protocol import StepState, to_uint8
from omni_worker.requests import GenerationParams, GenerationResult, ServingDefaults

DENOISERS = ("transformer", "transformer_2", "unet", "prior")
DECODERS = ("vae", "vqvae", "movq")


def denoisers(pipe: Any) -> list[str]:
    """The names of a pipeline's models that are called once or more in each step."""
    return [name for name in DENOISERS if isinstance(getattr(pipe, name, None), torch.nn.Module)]


class InterceptedPipeline:
    """A step pipeline around a loaded `diffusers.DiffusionPipeline`; `concurrent`: whether requests run interleaved."""

    supports_step_execution: ClassVar[bool] = True

    def __init__(self, pipe: Any, defaults: ServingDefaults | None = None, concurrent: bool = True) -> None:
        pipe.set_progress_bar_config(disable=True)
        self._pipe = pipe
        self._concurrent = concurrent
        self._arguments = CallArguments(pipe, defaults or ServingDefaults())
        self.card = self._arguments.card(pipe, mode="step")
        self.batches = ProvenBatches()
        self._stand_ins = self._make_stand_ins()

    def _make_stand_ins(self) -> dict[str, Any]:
        stand_ins = {name: _stand_in(getattr(self._pipe, name), name, "forward") for name in denoisers(self._pipe)}
        for name in DECODERS:
            if hasattr(getattr(self._pipe, name, None), "decode"):
                stand_ins[name] = _stand_in(getattr(self._pipe, name), f"{name}.decode", "decode")
        return stand_ins

    def prepare_encode(self, state: StepState) -> None:
        shell = copy.copy(self._pipe)
        shell.__dict__.update(self._stand_ins)  # not setattr: that would write to the pipeline's configuration
        if (solver := getattr(self._pipe, "scheduler", None)) is not None:
            shell.__dict__["scheduler"] = _counted(copy.deepcopy(solver) if self._concurrent else solver, state)
        kwargs = self._arguments.build(state.params)
        state.extra["run"] = greenlet(lambda: shell(**kwargs))
        self._resume(state)

    def denoise_step(self, states: Sequence[StepState]) -> list[Any]:
        return self.batches.run([state.extra["call"] for state in states])

    def step_scheduler(self, state: StepState, prediction: Any) -> None:
        self._resume(state, prediction)

    def post_decode(self, state: StepState) -> GenerationResult:
        return GenerationResult(images=to_uint8(state.extra["output"].images), steps=state.step)

    def close(self, state: StepState) -> None:
        run: greenlet | None = state.extra.get("run")
        state.extra.clear()
        if run is not None and not run.dead:
            run.throw()

    @staticmethod
    def _resume(state: StepState, *answer: Any) -> None:
        run: greenlet = state.extra["run"]
        state.extra.pop("call", None)
        value = run.switch(*answer)
        if run.dead:
            state.key, state.extra["output"] = None, value
        else:
            state.key, state.extra["call"] = value.key, value


class WholePipeline:
    """A diffusers pipeline that runs each request in one go, for pipelines with nothing to intercept."""

    def __init__(self, pipe: Any, defaults: ServingDefaults | None = None) -> None:
        pipe.set_progress_bar_config(disable=True)
        self._pipe = pipe
        self._arguments = CallArguments(pipe, defaults or ServingDefaults())
        self.card = self._arguments.card(pipe, mode="request")

    def generate(self, params: GenerationParams) -> GenerationResult:
        """The finished pictures. Raises ValueError for a request that the pipeline does not take."""
        return GenerationResult(images=to_uint8(self._pipe(**self._arguments.build(params)).images))


def _stand_in(model: torch.nn.Module, phase: str, method: str) -> torch.nn.Module:
    real: Callable[..., Any] = model if method == "forward" else getattr(model, method)

    def suspend(*args: Any, **kwargs: Any) -> Any:
        driver = getcurrent().parent
        if driver is None:  # not inside a request: nobody would resume it
            return real(*args, **kwargs)
        return driver.switch(Call(phase, real, args, kwargs))

    twin = copy.copy(model)
    twin.__dict__[method] = suspend
    return twin


def _counted(solver: Any, state: StepState) -> Any:
    """The timestep scheduler, made to count its steps into `state`."""
    advance = functools.partial(type(solver).step, solver)

    @functools.wraps(type(solver).step)
    def step(*args: Any, **kwargs: Any) -> Any:
        outcome = advance(*args, **kwargs)
        state.step += 1
        state.total_steps = len(solver.timesteps)
        return outcome

    solver.__dict__["step"] = step
    return solver
