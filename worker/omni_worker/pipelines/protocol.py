"""The step protocol: a generation as a sequence of model calls that the caller can batch."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from omni_worker.model_card import ModelCard
from omni_worker.requests import GenerationParams, GenerationResult


@dataclass
class StepState:
    """The progress of one request. Only the step pipeline writes to it, and keeps everything else by `request_id`.

    params: what to generate. In library use, it can instead be the keyword arguments of the pipeline's own call; the
        request's result is then what that call returns
    key: of the pending model call; calls with equal keys can go into one `denoise_step`. None if no call is pending
    in_loop: whether the pending call belongs to the denoising loop, not to the encoding or decoding
    component: the component of the pipeline that the pending call needs, if only one of them is on the device at a time
    step, total_steps: timestep-scheduler steps done so far, and in all (0 until known)
    estimate: the current estimate of the finished latents, and what the last step returned; None without previews
    preview: the images of the newest preview, until the caller takes them
    """

    request_id: str
    params: GenerationParams | Mapping[str, Any]
    key: Hashable | None = None
    in_loop: bool = True
    component: str | None = None
    step: int = 0
    total_steps: int = 0
    estimate: tuple[Any, Any] | None = None
    preview: list[np.ndarray] | None = None

    @property
    def wants_estimates(self) -> bool:
        """Whether the request has previews, which need estimates."""
        return not isinstance(self.params, Mapping) and self.params.preview_every > 0

    @property
    def is_done(self) -> bool:
        """Whether all model calls are done, so that `post_decode` can be called."""
        return self.key is None


@runtime_checkable
class SupportsStepExecution(Protocol):
    """A pipeline that runs one model call at a time. One thread calls all methods, for each request in this order:

        prepare_encode(state)                                   once; raises ValueError if it rejects the request
        denoise_step(states) -> predictions                     while `state.key` is not None; the states share a key,
        step_scheduler(state, prediction)                         and each gets its own prediction
        post_decode(state) -> GenerationResult                  once `state.is_done`
        close(state)                                            always, in any state; frees the request's memory

    The pipeline writes to the state from `prepare_encode` to `close`; the caller only reads it, and takes the preview.
    Between two calls, the caller can leave a state alone for any time, and advance others. If a prediction is None, the
    pipeline was interrupted: the caller closes the request without `step_scheduler` or `post_decode`. If `denoise_step`
    raises, no state has changed, so the caller can call it again with fewer states.

    proofs: how many `denoise_step` calls also proved a batch, so that their duration is not representative
    """

    supports_step_execution: ClassVar[bool]
    card: ModelCard

    @property
    def proofs(self) -> int: ...

    def prepare_encode(self, state: StepState) -> None:
        """Run up to the first model call, usually of a text encoder, and set `state.key`."""

    def denoise_step(self, states: Sequence[StepState]) -> list[Any]:
        """Run the pending calls of `states` as one. Returns a prediction for each, in their order. Changes no state."""

    def step_scheduler(self, state: StepState, prediction: Any) -> None:
        """Take a prediction, run up to the next model call, and set `state.key` to its key or None."""

    def post_decode(self, state: StepState) -> GenerationResult | Any:
        """The finished images, uint8 of shape (height, width, channels), or an object whose method `finish` returns
        them, in any thread. If `params` are the arguments of the pipeline's own call, what that call returned."""

    def close(self, state: StepState) -> None:
        """Free what the request holds. Can be called at any time, and more than once."""

    def stats(self) -> Mapping[str, float]:
        """Counters since the start, for metrics."""


def can_step(pipeline: object) -> bool:
    """Whether a pipeline declares that it supports step execution, and has the methods."""
    return isinstance(pipeline, SupportsStepExecution) and pipeline.supports_step_execution is True
