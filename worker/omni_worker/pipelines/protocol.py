"""The step protocol: a generation as a sequence of model calls that somebody else may batch."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from omni_worker.model_card import ModelCard
from omni_worker.requests import GenerationParams, GenerationResult


@dataclass
class StepState:
    """One request in the hands of a step pipeline, which alone writes to it.

    params: what to generate; or, for use as a library, the keyword arguments of the pipeline's own call, whose output
        is then handed on as it is
    key: of the pending model call; equal keys may go into one `denoise_step`. None once no call is pending.
    in_loop: whether that call is one of the denoising loop, and not of the encoding before or the decoding after it
    step, total_steps: timestep-scheduler steps done, and to do in all (0 until known).
    estimate: what the finished latents would be as far as is known, and what the last step gave; None where not wanted
    preview: a picture of the request as it is now, until the caller takes it
    extra: whatever the pipeline needs to go on; dropped by `close`.
    """

    request_id: str
    params: GenerationParams | Mapping[str, Any]
    key: Hashable | None = None
    in_loop: bool = True
    step: int = 0
    total_steps: int = 0
    estimate: tuple[Any, Any] | None = None
    preview: list[np.ndarray] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def wants_estimates(self) -> bool:
        """Whether previews are to be made."""
        return not isinstance(self.params, Mapping) and self.params.preview_every > 0

    @property
    def is_done(self) -> bool:
        """Whether every model call has been made and `post_decode` may be called."""
        return self.key is None


@runtime_checkable
class SupportsStepExecution(Protocol):
    """A pipeline that runs one call at a time. All methods are called from one thread, for one request in this order:

        prepare_encode(state)                                   once; raises ValueError for a request it cannot take
        denoise_step(states) -> predictions                     while `state.key` is not None: states share a key,
        step_scheduler(state, prediction)                         and each gets its own prediction
        post_decode(state) -> GenerationResult                  once `state.is_done`
        close(state)                                            always, whatever happened before; frees all it holds

    The state belongs to the pipeline from `prepare_encode` to `close`; the caller only reads it. Between two calls the
    caller may leave a state alone for as long as it likes, and go on with others. A prediction that is None says that
    the pipeline was interrupted: the request is closed, with neither `step_scheduler` nor `post_decode`. An exception
    leaves the other states of a batch as they were: the caller may call `denoise_step` again with fewer.

    proofs: how often a call was more than the one model call that it usually is, so that its time says nothing
    """

    supports_step_execution: ClassVar[bool]
    card: ModelCard

    @property
    def proofs(self) -> int: ...

    def prepare_encode(self, state: StepState) -> None:
        """Run up to the first model call, that of a text encoder where there is one; sets `state.key`."""

    def denoise_step(self, states: Sequence[StepState]) -> list[Any]:
        """Make the pending calls of `states` as one; a prediction for each, in their order. Changes no state."""

    def step_scheduler(self, state: StepState, prediction: Any) -> None:
        """Take a prediction, run up to the next model call, and set `state.key` to its key or None."""

    def post_decode(self, state: StepState) -> GenerationResult | Any:
        """The finished pictures, uint8 of shape (height, width, channels); the pipeline's own output where `params` are
        the arguments of its call."""

    def close(self, state: StepState) -> None:
        """Drop what the request holds. May be called at any time, and more than once."""

    def stats(self) -> Mapping[str, float]:
        """Counters since the start, for metrics."""


def can_step(pipeline: object) -> bool:
    """Whether a pipeline says that it steps, and has the methods: presence of the attribute alone is not enough."""
    return isinstance(pipeline, SupportsStepExecution) and pipeline.supports_step_execution is True
