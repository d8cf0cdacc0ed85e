"""Copies of timestep schedulers for requests.

A timestep scheduler keeps a history, so requests that run interleaved must not share one.
"""

import copy
import functools
import inspect
import types
import weakref
from typing import Any

from diffusers import UnCLIPScheduler

from omni_worker.pipelines.protocol import StepState


def copy_for_request(timestep_scheduler: Any, state: StepState, is_shared: bool) -> Any:
    """A copy of a timestep scheduler for one request. It counts its steps in `state`.

    The copy is deep if requests run interleaved (`is_shared`). A request that runs alone shares the original's tables.
    """
    duplicate = copy.deepcopy(timestep_scheduler) if is_shared else copy.copy(timestep_scheduler)
    if hasattr(type(duplicate), "step"):
        vars(duplicate)["step"] = CountedStep(duplicate, state)
    return duplicate


def magnifies_rounding(timestep_scheduler: Any) -> bool:
    """Whether a timestep scheduler turns differences in rounding into visible ones.

    UnCLIP does: its first step divides by the square root of the image's share in the noise, about 1/10,000.
    """
    return isinstance(timestep_scheduler, UnCLIPScheduler) and timestep_scheduler.config.prediction_type == "epsilon"


class CountedStep:
    """Replaces the `step` of a timestep scheduler. It counts the steps, and keeps estimates if they are required.

    It refers to the timestep scheduler weakly, so that both are freed when their request ends.
    """

    def __init__(self, timestep_scheduler: Any, state: StepState) -> None:
        self._reference = weakref.ref(timestep_scheduler)
        self._state = state
        step = type(timestep_scheduler).step
        functools.update_wrapper(self, step)
        self.__signature__ = inspect.signature(types.MethodType(step, timestep_scheduler))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        timestep_scheduler = self._reference()
        assert timestep_scheduler is not None, "its pipeline has ended"
        outcome = type(timestep_scheduler).step(timestep_scheduler, *args, **kwargs)
        if self._state.wants_estimates:
            self._state.estimate = estimated_latents(timestep_scheduler, outcome, *args, **kwargs), outcome
        skipped = getattr(timestep_scheduler, "begin_index", None) or 0
        self._state.step += 1
        self._state.total_steps = max(len(timestep_scheduler.timesteps) - skipped, self._state.step)
        return outcome

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A pipeline may copy its timestep scheduler, for the sound of a video. The copy's steps are not counted."""
        duplicate = memo.get(id(self._reference()))
        return self if duplicate is None else types.MethodType(type(duplicate).step, duplicate)


def estimated_latents(
    timestep_scheduler: Any, outcome: Any, model_output: Any, timestep: Any, sample: Any, *_: Any, **__: Any
) -> Any:
    """The best estimate of the finished latents after a step. It looks better than the noisy latents."""
    if getattr(outcome, "pred_original_sample", None) is not None:
        return outcome.pred_original_sample
    if type(timestep_scheduler).__name__.startswith("FlowMatch") and timestep_scheduler.step_index is not None:
        return sample - timestep_scheduler.sigmas[timestep_scheduler.step_index - 1] * model_output
    return outcome[0]
