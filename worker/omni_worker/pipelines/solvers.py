"""A request's own timestep schedulers: they keep a history, so no two requests that run side by side may share one."""

import copy
import functools
from typing import Any

from omni_worker.pipelines.protocol import StepState


def own_solver(solver: Any, state: StepState, is_shared: bool) -> Any:
    """A timestep scheduler for one request, which counts its steps into `state`.

    Where requests run side by side (`is_shared`) it is a deep copy; one that runs alone uses the original's tables.
    """
    own = copy.deepcopy(solver) if is_shared else copy.copy(solver)
    kind = type(own)
    if not hasattr(kind, "step"):
        return own

    @functools.wraps(kind.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        outcome = kind.step(self, *args, **kwargs)
        if self is own:  # a pipeline may make copies of its own, for the sound of a video
            state.step += 1
            skipped = getattr(self, "begin_index", None) or 0
            state.total_steps = max(len(self.timesteps) - skipped, state.step)
        return outcome

    # A class of its own, not an attribute of the object: a copy's step must be the copy's.
    own.__class__ = type(kind.__name__, (kind,), {"step": step, "__module__": kind.__module__, "__doc__": kind.__doc__})
    return own
