"""The step protocol: a generation as a sequence of model calls that somebody else may batch."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from omni_worker.requests import GenerationParams, GenerationResult, ModelCard


@dataclass
class StepState:
    """One request in the hands of a step pipeline, which alone writes to it.

    key: of the pending model call; equal keys may go into one `denoise_step`. None once no call is pending.
    step, total_steps: timestep-scheduler steps done, and to do in all (0 until known).
    extra: whatever the pipeline needs to go on; dropped by `close`.
    """

    request_id: str
    params: GenerationParams
    key: Hashable | None = None
    step: int = 0
    total_steps: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

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

    An exception leaves the other states of a batch as they were: the caller may call `denoise_step` again with fewer.
    """

    supports_step_execution: ClassVar[bool]
    card: ModelCard

    def prepare_encode(self, state: StepState) -> None:
        """Encode the prompt and run up to the first model call; sets `state.key`."""

    def denoise_step(self, states: Sequence[StepState]) -> list[Any]:
        """Make the pending calls of `states` as one; a prediction for each, in their order. Changes no state."""

    def step_scheduler(self, state: StepState, prediction: Any) -> None:
        """Take a prediction, run up to the next model call, and set `state.key` to its key or None."""

    def post_decode(self, state: StepState) -> GenerationResult:
        """The finished pictures, uint8 of shape (height, width, channels)."""

    def close(self, state: StepState) -> None:
        """Drop what the request holds. May be called at any time, and more than once."""


def can_step(pipeline: object) -> bool:
    """Whether a pipeline says that it steps, and has the methods: presence of the attribute alone is not enough."""
    return isinstance(pipeline, SupportsStepExecution) and pipeline.supports_step_execution is True


def to_uint8(images: np.ndarray) -> list[np.ndarray]:
    """Pictures in [0, 1] of shape (n, height, width, channels) as n uint8 arrays, rounded as diffusers does."""
    return list((np.clip(images, 0.0, 1.0) * 255).round().astype(np.uint8))
