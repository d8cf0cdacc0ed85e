"""Pictures of requests that are still running, made by the pipeline's own code.

The latents of every family are packed and scaled in its own way, so only the pipeline itself can make a picture of
them. It is run once more, as a shadow of the request, which costs little: what its text encoders and denoisers would
answer is known already, and its timestep scheduler answers with the request's present estimate of the finished latents.
Only the decoding is done, as a call that may share a batch like any other.
"""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from greenlet import greenlet

from omni_worker.pipelines.arguments.results import result_of
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.components import DECODE, DENOISE
from omni_worker.pipelines.protocol import StepState
from omni_worker.pipelines.request_context import RequestContext

log = logging.getLogger(__name__)

LARGEST_SHARE = 0.2  # of a request's time that may go into its previews; those that would take more are left out


@dataclass
class Shadow:
    """A run of the pipeline beside the request's own."""

    run: greenlet
    context: RequestContext


class Previews:
    """The previews of one request, every `every` steps. A preview that fails is the last, and harms nothing else."""

    def __init__(self, every: int, start: Callable[[str, Callable[[Any], Any]], Shadow]) -> None:
        self.seconds = 0.0
        self.pictures: list[np.ndarray] | None = None
        self._every = every
        self._start = start
        self._shadow: Shadow | None = None
        self._before_loop: list[Any] = []
        self._next_before_loop = 0
        self._of_model: dict[str, Any] = {}
        self._last_step = 0
        self._began = time.perf_counter()

    def remember(self, call: Call, answer: Any) -> None:
        """Keep the answer of one of the request's calls."""
        if call.phase == DENOISE:
            self._of_model[call.model] = answer
        else:
            self._before_loop.append(answer)

    def are_due(self, state: StepState) -> bool:
        """Whether it is time for the next."""
        step = state.step - state.step % self._every
        if step <= self._last_step or state.estimate is None or step >= state.total_steps:
            return False
        if self.seconds > LARGEST_SHARE * (time.perf_counter() - self._began):
            return False
        self._last_step, self._estimate = step, state.estimate
        return True

    def advance(self, request_id: str, *answer: Any) -> Call | None:
        """Begin a preview, or go on with the answer to its call: its next call, or None once `pictures` are set."""
        began = time.perf_counter()
        self.pictures = None
        try:
            return self._advance(request_id, *answer)
        except Exception as error:
            log.warning("request %s gets no more previews: %s", request_id, error)
            self._every = 1 << 30
            self.close()
            return None
        finally:
            self.seconds += time.perf_counter() - began

    def close(self) -> None:
        """End the shadow where it stands."""
        shadow, self._shadow = self._shadow, None
        if shadow is not None and not shadow.run.dead:
            with shadow.context.active():
                shadow.run.throw()

    def _advance(self, request_id: str, *answer: Any) -> Call | None:
        if self._shadow is None:
            self._shadow, self._next_before_loop = self._start(request_id, self._estimating), 0
        shadow = self._shadow
        with shadow.context.active():
            value = shadow.run.switch(*answer)
            while not shadow.run.dead and value.phase != DECODE:
                value = shadow.run.switch(self._known(value))
        if not shadow.run.dead:
            return value  # type: ignore[no-any-return]
        self._shadow, self.pictures = None, result_of(value).images
        return None

    def _known(self, call: Call) -> Any:
        if call.phase == DENOISE:
            return self._of_model[call.model]
        self._next_before_loop += 1
        return self._before_loop[self._next_before_loop - 1]

    def _estimating(self, solver: Any) -> Any:
        """A timestep scheduler whose every step ends at the estimate."""
        own, (estimate, outcome) = copy.deepcopy(solver), self._estimate

        def step(*args: Any, **kwargs: Any) -> Any:
            if isinstance(outcome, tuple):
                return (estimate, *outcome[1:])
            return type(outcome)(**{**outcome, "prev_sample": estimate})

        vars(own)["step"] = step
        return own
