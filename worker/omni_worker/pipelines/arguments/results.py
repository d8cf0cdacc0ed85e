"""Converts what a pipeline's call returns to the result of a request."""

from typing import Any

import numpy as np

from omni_worker.requests import GenerationResult


class NotFinite(Exception):
    """The model returned NaN or infinite values."""


def generation_result(output: Any, steps: int = 0) -> GenerationResult:
    """The images of a pipeline's output, or the frames of its videos.

    Raises NotFinite, or TypeError if the output has neither images nor frames.
    """
    images = next((output[name] for name in ("images", "frames") if name in output), None)
    if images is None:
        raise TypeError(f"{type(output).__name__} holds neither images nor frames")
    images = np.asarray(images)
    if not np.isfinite(images).all():
        raise NotFinite("the model gave values that are no numbers (NaN or infinite)")
    return GenerationResult(images=to_uint8(images), steps=steps)


def to_uint8(images: np.ndarray) -> list[np.ndarray]:
    """Images in [0, 1] of shape (n, height, width, channels), or videos of shape (n, frames, height, width, channels),
    as n uint8 arrays. It rounds as diffusers does."""
    return list((np.clip(images, 0.0, 1.0) * 255).round().astype(np.uint8))
