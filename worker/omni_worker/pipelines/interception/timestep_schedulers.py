"""A request's own timestep schedulers: they keep a history, so no two requests that run side by side may share one."""

import copy
import functools
import types
from typing import Any

from diffusers import UnCLIPScheduler

from omni_worker.pipelines.protocol import StepState


def own_solver(solver: Any, state: StepState, is_shared: bool) -> Any:
    """A timestep scheduler for one request, which counts its steps into `state`.

    Where requests run side by side (`is_shared`) it is a deep copy; one that runs alone uses the original's tables.
    """
    own = copy.deepcopy(solver) if is_shared else copy.copy(solver)
    if hasattr(type(own), "step"):
        vars(own)["step"] = CountedStep(own, state)
    return own


def magnifies_rounding(solver: Any) -> bool:
    """Whether a timestep scheduler turns differences that rounding makes into ones that can be seen.

    UnCLIP's divides, at its first step, by the root of what is left of the picture in the noise: some ten-thousandth.
    """
    return isinstance(solver, UnCLIPScheduler) and solver.config.prediction_type == "epsilon"


class CountedStep:
    """The `step` of a timestep scheduler, which counts."""

    def __init__(self, solver: Any, state: StepState) -> None:
        self._solver = solver
        self._state = state
        self._step = types.MethodType(type(solver).step, solver)
        functools.update_wrapper(self, self._step)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outcome = self._step(*args, **kwargs)
        if self._state.wants_estimates:
            self._state.estimate = estimate(self._solver, outcome, *args, **kwargs), outcome
        skipped = getattr(self._solver, "begin_index", None) or 0
        self._state.step += 1
        self._state.total_steps = max(len(self._solver.timesteps) - skipped, self._state.step)
        return outcome

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A pipeline may copy its timestep scheduler, for the sound of a video: the copy's step is the copy's own."""
        duplicate = memo.get(id(self._solver))
        return self if duplicate is None else types.MethodType(type(duplicate).step, duplicate)


def estimate(solver: Any, outcome: Any, model_output: Any, timestep: Any, sample: Any, *_: Any, **__: Any) -> Any:
    """What the finished latents would be as far as is known after a step: better to look at than the noisy ones."""
    if getattr(outcome, "pred_original_sample", None) is not None:
        return outcome.pred_original_sample
    if type(solver).__name__.startswith("FlowMatch") and solver.step_index is not None:
        return sample - solver.sigmas[solver.step_index - 1] * model_output
    return outcome[0]
