"""What a loaded model can do, and the defaults it is served with. A replica reports its card to the head."""

import math
from typing import Any

import msgspec

from omni_worker.errors import RequestError
from omni_worker.requests import GenerationParams

MAX_SIDE = 16_384
"""Of an image, in pixels."""
MAX_STEPS = 100_000


def fewest_steps(strength: float) -> int:
    """The smallest number of steps of which at least one runs if only the share `strength` of them does."""
    steps = math.ceil(1 / max(strength, 1 / MAX_STEPS))
    return steps if int(steps * strength) >= 1 else steps + 1  # 1 / strength is rounded


class ServingDefaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Values for what a request leaves out: the `defaults` of a model folder's `omni.json`. None is the model's own."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    strength: float | None = None

    @property
    def video_fields(self) -> dict[str, Any]:
        """The defaults that set the length of a video, as fields of a ModelCard."""
        fields = {"frames": self.num_frames, "fps": self.fps}
        return {name: value for name, value in fields.items() if value is not None}

    def fill(self, params: GenerationParams) -> GenerationParams:
        """`params`, with each field that is None replaced by its default."""

        def either(value: Any, default: Any) -> Any:
            return default if value is None else value

        return msgspec.structs.replace(
            params,
            steps=either(params.steps, self.num_inference_steps),
            guidance=either(params.guidance, self.guidance_scale),
            negative_prompt=either(params.negative_prompt, self.negative_prompt),
            width=either(params.width, self.width),
            height=either(params.height, self.height),
            frames=either(params.frames, self.num_frames),
            fps=either(params.fps, self.fps),
            strength=either(params.strength, self.strength),
        )


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a loaded model can do. Its fields are also those of the API's schema `CardObject`.

    pipeline: the name of the pipeline's or the model's class
    mode: how the replica runs it: `step`, `request`, `generate` (text) or `encode` (embeddings of a prompt)
    context_length: of a text model: the maximum of prompt and answer together, in tokens; None is unlimited
    negative_prompt, guidance, sized: whether it takes a negative prompt, a guidance scale, an image size
    width, height: the image size that it generates by default; None if unknown
    size_multiple: width and height must be multiples of this, in pixels
    image: how many input images it takes: `none`, `one` or `several`; needs_image: whether it requires one
    mask, strength: whether it takes these with an input image
    default_strength: how much of an image it changes by default; None if unknown
    steps: its default number of denoising steps; None if unknown
    video: whether it generates videos, by default of `frames` frames at `fps` frames per second; a number of frames is
        one more than a multiple of `frame_multiple`
    """

    pipeline: str
    mode: str
    context_length: int | None = None
    defaults: ServingDefaults = ServingDefaults()
    negative_prompt: bool = False
    guidance: bool = False
    sized: bool = False
    width: int | None = None
    height: int | None = None
    size_multiple: int = 1
    image: str = "none"
    needs_image: bool = False
    mask: bool = False
    strength: bool = False
    default_strength: float | None = None
    steps: int | None = None
    video: bool = False
    frames: int | None = None
    fps: float = 16.0
    frame_multiple: int = 1

    def check_strength(self, params: GenerationParams) -> None:
        """Raises RequestError if not one of the request's steps would run.

        A pipeline that starts from an image skips the first steps and runs the share `strength` of them.
        """
        strength = params.strength  # with their own default, some pipelines run a step whatever its share is
        steps = self._first(params.steps, self.defaults.num_inference_steps, self.steps)
        if not (self.strength and params.images) or strength is None or steps is None or int(steps * strength) >= 1:
            return
        field = "strength" if params.strength is not None or params.steps is None else "num_inference_steps"
        remedy = (
            f"more strength, or at least {fewest_steps(strength)} steps"
            if strength >= 1 / MAX_STEPS
            else "more strength"
        )
        raise RequestError(
            "invalid",
            f"{field}: a strength of {strength:g} with {steps:g} steps is less than one step: give {remedy}",
            field,
        )

    @staticmethod
    def _first(*values: float | None) -> float | None:
        return next((value for value in values if value is not None), None)
