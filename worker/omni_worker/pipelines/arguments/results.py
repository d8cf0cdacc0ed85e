"""Converts what a pipeline's call returns to the result of a request: images, videos or sound."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor

from omni_worker.device.host_copies import to_host
from omni_worker.pipelines.modular import ModularCall
from omni_worker.requests import GenerationResult, Sound

POSTPROCESSING = re.compile(r"self\.(image_processor\.postprocess|video_processor\.postprocess_video)\(")
OTHER_POSTPROCESSING = re.compile(r"processor\w*\.postprocess\w*\(")
CHOICES = re.compile(r"output_type\s*(?:==|!=|in\b|not in\b)\s*+(?!\"latents?\"|'latents?')")

NOT_FINITE = "the model gave values that are no numbers (NaN or infinite)"


class NotFinite(Exception):
    """The model returned NaN or infinite values."""


@dataclass(frozen=True)
class UnfinishedResult:
    """A pipeline's images, which `finish` converts. That takes long, so it need not run where the pipeline runs.

    images: floats in [0, 1]: an array of shape (n, height, width, channels), or (n, frames, height, width, channels)
        of videos; or a tensor on any device with the channels before the height
    """

    images: np.ndarray | Tensor
    steps: int = 0

    def finish(self) -> GenerationResult:
        """The result, with images in uint8. A device converts its own tensors, so that only bytes are copied to the
        host. Raises NotFinite."""
        with torch.inference_mode():
            return GenerationResult(images=[_to_uint8(one) for one in self._tensors()], steps=self.steps)

    def _tensors(self) -> Iterator[Tensor]:
        """The images one by one, with the channels last."""
        for one in self.images:
            yield one.movedim(-3, -1) if isinstance(one, Tensor) else torch.from_numpy(np.ascontiguousarray(one))


@dataclass(frozen=True)
class UnfinishedSound:
    """A pipeline's sound, which `finish` converts.

    samples: floats of shape (samples,) or (channels, samples), on any device
    rate: samples a second
    """

    samples: np.ndarray | Tensor
    rate: int
    steps: int = 0

    def finish(self) -> GenerationResult:
        """The result, with its samples in float32 on the host. Raises NotFinite."""
        with torch.inference_mode():
            samples = torch.atleast_2d(torch.as_tensor(self.samples).float())
            if not torch.isfinite(samples).all():
                raise NotFinite(NOT_FINITE)
            return GenerationResult(sound=Sound(samples=to_host(samples).numpy(), rate=self.rate), steps=self.steps)


def output_type_of(pipe: Any) -> str:
    """The `output_type` to call a pipeline with: `pt` if that gives the same images as `np`, as tensors on the device.

    It does where the pipeline passes it on to diffusers' own image or video processor, and does not look at it
    otherwise (but for `latent`).
    """
    if isinstance(pipe, ModularCall):  # its blocks decode, each in its own way
        return "np"
    try:
        source = inspect.getsource(inspect.unwrap(type(pipe).__call__))
    except (OSError, TypeError):
        return "np"
    found = POSTPROCESSING.findall(source)
    image, video = getattr(pipe, "image_processor", None), getattr(pipe, "video_processor", None)
    is_own = {
        "image_processor.postprocess": _is_own(image, VaeImageProcessor, "postprocess"),
        "video_processor.postprocess_video": _is_own(video, VideoProcessor, "postprocess", "postprocess_video"),
    }
    passes_on = bool(found) and all(is_own[name] for name in found)
    if not passes_on or len(OTHER_POSTPROCESSING.findall(source)) > len(found) or CHOICES.search(source):
        return "np"
    return "pt"


def _is_own(processor: Any, kind: type, *methods: str) -> bool:
    """Whether a processor has these methods of diffusers' own class, not methods that replace them."""
    return all(getattr(type(processor), name, None) is getattr(kind, name) for name in methods)


def unfinished_result(
    output: Any, steps: int = 0, sample_rate: int | None = None
) -> UnfinishedResult | UnfinishedSound:
    """The images of a pipeline's output, the frames of its videos, or its sound of this rate.

    Raises TypeError if it has none of them, or a sound whose rate is unknown.
    """
    if "audios" in output and not {"images", "frames"} & {*output}:
        if sample_rate is None:
            raise TypeError("the pipeline makes sound, but names no sample rate: give it an attribute sample_rate")
        return UnfinishedSound(output["audios"][0], sample_rate, steps)
    images = next((output[name] for name in ("images", "frames") if name in output), None)
    if images is None:
        raise TypeError(f"{type(output).__name__} holds neither images nor frames nor audios")
    if isinstance(images, list) and images and isinstance(images[0], Image.Image):
        images = np.stack([np.asarray(image, np.float32) / 255 for image in images])
    return UnfinishedResult(images if isinstance(images, Tensor) else np.asarray(images), steps)


def _to_uint8(image: Tensor) -> np.ndarray:
    """An image or a video in [0, 1] in uint8. Rounds as diffusers does. Goes frame by frame, to need little memory."""
    frames = image if image.dim() == 4 else image[None]
    converted = torch.empty(frames.shape, dtype=torch.uint8, device=frames.device)
    is_finite = torch.ones((), dtype=torch.bool, device=frames.device)
    for frame, place in zip(frames, converted, strict=True):
        values = frame if frame.dtype == torch.float64 else frame.float()
        is_finite &= torch.isfinite(values).all()
        place.copy_(values.clamp(0.0, 1.0).mul_(255).round_())
    if not is_finite:
        raise NotFinite(NOT_FINITE)
    array: np.ndarray = to_host(converted.view(image.shape)).numpy()
    return array
