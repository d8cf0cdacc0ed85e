"""What a loaded model can do, and the defaults it is served with. A replica reports its card to the head."""

import difflib
import math
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from omni_worker.errors import RequestError
from omni_worker.requests import GenerationParams

MAX_SIDE = 16_384
"""Of an image, in pixels."""
MAX_STEPS = 100_000
MAX_SHOWN = 64
"""Characters of a client's text that an error repeats."""


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
    seconds: float | None = None
    strength: float | None = None

    @property
    def length_fields(self) -> dict[str, Any]:
        """The defaults that set the length of a video or a sound, as fields of a ModelCard."""
        fields = {"frames": self.num_frames, "fps": self.fps, "seconds": self.seconds}
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
            seconds=either(params.seconds, self.seconds),
            strength=either(params.strength, self.strength),
        )


SECONDS_ARGUMENTS = ("audio_length_in_s", "audio_end_in_s", "audio_duration", "audio_duration_s", "duration")
"""What pipelines that make sound call its length in seconds."""
BOOLEAN, INTEGER, NUMBER, TEXT, LIST, IMAGE = "boolean", "integer", "number", "text", "list", "image"
"""The kinds of values of an argument. A list has values of the other kinds, except images."""
SCALARS = (BOOLEAN, INTEGER, NUMBER, TEXT)
OWN_FIELDS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "num_inference_steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "true_cfg_scale": "guidance_scale",
    "width": "size",
    "height": "size",
    "generator": "seed",
    "image": "image",
    "mask_image": "mask",
    "strength": "strength",
    "num_frames": "num_frames",
    "num_images_per_prompt": "n",
} | dict.fromkeys(SECONDS_ARGUMENTS, "seconds")
"""Arguments that have fields of their own in requests, and the names of these."""


Scalar = bool | int | float | str
Default = Scalar | tuple[Scalar, ...] | None
"""A default value of an argument. Cards are compared and hashed, so it has no lists."""


class CallArgument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An argument of a pipeline's call that a request can give in `extra_args`.

    kinds: of values that it takes
    default: its default value, if it has one that can be shown
    """

    name: str
    kinds: tuple[str, ...]
    default: Default = None
    required: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value has one of its kinds. Images are decoded elsewhere."""
        if isinstance(value, list):
            return LIST in self.kinds and not any(isinstance(item, list | dict) for item in value)
        kind = {bool: BOOLEAN, int: INTEGER, float: NUMBER, str: TEXT}.get(type(value))
        return kind in self.kinds or (kind == INTEGER and NUMBER in self.kinds)


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
    takes_loras: whether LoRA adapters can be loaded into it
    loras: the names of those that are loaded, which a request can select
    video: whether it generates videos, by default of `frames` frames at `fps` frames per second; a number of frames is
        one more than a multiple of `frame_multiple`
    audio: whether it generates sound, by default of `seconds` seconds (None if unknown), with `sample_rate` samples a
        second
    arguments: those of the pipeline's call that a request can give in `extra_args`
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
    audio: bool = False
    seconds: float | None = None
    sample_rate: int | None = None
    takes_loras: bool = False
    loras: tuple[str, ...] = ()
    arguments: tuple[CallArgument, ...] = ()

    @property
    def product(self) -> str:
        """What it generates: `image`, `video` or `audio`."""
        return "audio" if self.audio else "video" if self.video else "image"

    def check_arguments(self, extra_args: Mapping[str, Any], images: Collection[str] = ()) -> None:
        """Raises RequestError if the pipeline has no such argument, or an argument takes no such value.

        images: the names of the arguments that are given as images
        """
        arguments = {argument.name: argument for argument in self.arguments}
        for name in (*extra_args, *images):
            argument = arguments.get(name)
            if argument is None:
                raise RequestError("invalid", f"extra_args: {self._no_argument(name)}", "extra_args")
            if name not in images and not argument.accepts(extra_args[name]):
                kinds = " or ".join(argument.kinds)
                raise RequestError("invalid", f"extra_args: {name} takes a value of the kind {kinds}", "extra_args")
            if name in images and IMAGE not in argument.kinds:
                raise RequestError("invalid", f"extra_args: {name} takes no image", "extra_args")
        for argument in self.arguments:
            if argument.required and argument.name not in (*extra_args, *images):
                message = f"extra_args: {self.pipeline} needs {argument.name} ({' or '.join(argument.kinds)})"
                raise RequestError("invalid", message, "extra_args")

    def _no_argument(self, name: str) -> str:
        if name in OWN_FIELDS:
            return f"{name} has a field of its own: send it as {OWN_FIELDS[name]}"
        names = [argument.name for argument in self.arguments]
        similar = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {similar[0]}?" if similar else f"it has {', '.join(names) or 'none'}"
        return f"{self.pipeline} has no extra argument {name[:MAX_SHOWN]!r}; {hint}"

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
