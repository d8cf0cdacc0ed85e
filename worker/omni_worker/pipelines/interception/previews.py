"""Images of requests that are still running, made by the pipeline's own code.

Every family packs and scales its latents in its own way, so only the pipeline itself can turn them into an image. A
preview therefore runs the pipeline a second time, beside the request. This is cheap: the text encoders and denoisers
do not run again, because their results are remembered, and the timestep scheduler returns the request's current
estimate of the finished latents. Only the decoding runs, as a call that can share a batch like any other.
"""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from greenlet import greenlet

from omni_worker.pipelines.arguments.results import unfinished_result
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.components import DECODE, DENOISE
from omni_worker.pipelines.protocol import StepState
from omni_worker.pipelines.request_context import RequestContext

log = logging.getLogger(__name__)

MAX_TIME_SHARE = 0.2  # of a request's time that its previews can take; further previews are skipped


@dataclass
class PreviewRun:
    """A run of the pipeline for one preview."""

    greenlet: greenlet
    context: RequestContext


class Previews:
    """The previews of one request, one for every `every` steps. If a preview fails, the request gets no more of them.

    start: starts a run of the pipeline, from the request's id and a function that replaces a timestep scheduler
    seconds: spent on this request's previews so far
    images: of the preview that has just finished, uint8 of shape (height, width, channels)
    """

    def __init__(self, every: int, start: Callable[[str, Callable[[Any], Any]], PreviewRun]) -> None:
        self.seconds = 0.0
        self.images: list[np.ndarray] | None = None
        self._every = every
        self._start = start
        self._run: PreviewRun | None = None
        self._results_before_loop: list[Any] = []
        self._next_before_loop = 0
        self._last_result_of_model: dict[str, Any] = {}
        self._last_step = 0
        self._began = time.perf_counter()

    def remember(self, call: Call, result: Any) -> None:
        """Keep the result of one of the request's own calls."""
        if call.phase == DENOISE:
            self._last_result_of_model[call.model] = result
        else:
            self._results_before_loop.append(result)

    def are_due(self, state: StepState) -> bool:
        """Whether to start a preview now. If so, it shows the state's current estimate."""
        step = state.step - state.step % self._every
        if step <= self._last_step or state.estimate is None or step >= state.total_steps:
            return False
        if self.seconds > MAX_TIME_SHARE * (time.perf_counter() - self._began):
            return False
        self._last_step, self._estimate = step, state.estimate
        return True

    def advance(self, request_id: str, *result: Any) -> Call | None:
        """Start a preview, or continue it with the result of its last call.

        Returns the preview's next call. None means that it has ended: `images` is set, or still None if it failed.
        """
        began = time.perf_counter()
        self.images = None
        try:
            return self._advance(request_id, *result)
        except Exception as error:
            log.warning("request %s gets no more previews: %s", request_id, error)
            self._every = 1 << 30
            self.close()
            return None
        finally:
            self.seconds += time.perf_counter() - began

    def close(self) -> None:
        """End the current preview, if one runs."""
        run, self._run = self._run, None
        if run is not None and not run.greenlet.dead:
            with run.context.active():
                run.greenlet.throw()
            run.context.close()

    def _advance(self, request_id: str, *result: Any) -> Call | None:
        if self._run is None:
            self._run, self._next_before_loop = self._start(request_id, self._finish_at_estimate), 0
        run = self._run
        with run.context.active():
            value = run.greenlet.switch(*result)
            while not run.greenlet.dead and value.phase != DECODE:
                value = run.greenlet.switch(self._remembered_result(value))
        if not run.greenlet.dead:
            return value  # type: ignore[no-any-return]
        self._run, self.images = None, unfinished_result(value).finish().images
        return None

    def _remembered_result(self, call: Call) -> Any:
        if call.phase == DENOISE:
            return self._last_result_of_model[call.model]
        self._next_before_loop += 1
        return self._results_before_loop[self._next_before_loop - 1]

    def _finish_at_estimate(self, timestep_scheduler: Any) -> Any:
        """A copy of a timestep scheduler whose every step returns the estimate of the finished latents."""
        duplicate, (estimate, outcome) = copy.deepcopy(timestep_scheduler), self._estimate

        def step(*args: Any, **kwargs: Any) -> Any:
            if isinstance(outcome, tuple):
                return (estimate, *outcome[1:])
            return type(outcome)(**{**outcome, "prev_sample": estimate})

        vars(duplicate)["step"] = step
        return duplicate
