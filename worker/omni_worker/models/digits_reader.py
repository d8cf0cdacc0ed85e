"""Reads the pictures that `builtin://digits` paints, to tell whether they show what was asked for.

An independent judge: its classifier learns from scikit-learn's scans alone, never from a painted picture. It needs
scikit-learn (the `dev` extra) and imports no torch, so that a client may use it.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omni_worker.models.digits_recipe.captions import BACKGROUNDS, COLOURS, Rgb
from omni_worker.models.digits_recipe.glyphs import SCAN, Scans, glyphs, moved, split

if TYPE_CHECKING:
    from sklearn.svm import SVC

GLYPH_SIZE = 32
INK_SHARE = 0.7


@dataclass(frozen=True)
class Reading:
    """What a picture shows."""

    digit: int
    colour: str
    background: str


def read(image: Image.Image | NDArray[np.uint8]) -> Reading:
    """Read one square RGB picture of 32x32 pixels or more (array: (size, size, 3), 0 to 255).

    Raises `ModuleNotFoundError` where scikit-learn is not installed, `ValueError` for a picture of another shape.
    """
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image, np.float32) / 255
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.shape[0] != pixels.shape[1] or len(pixels) < GLYPH_SIZE:
        raise ValueError(f"a square RGB picture of at least 32x32 pixels was expected, its shape is {pixels.shape}")
    edge = max(1, len(pixels) // 32)
    border = np.concatenate([pixels[:edge].reshape(-1, 3), pixels[-edge:].reshape(-1, 3)])
    background = _nearest(np.median(border, axis=0), BACKGROUNDS)
    ground = np.array(BACKGROUNDS[background])
    contrast = np.abs(pixels - ground).sum(axis=2)
    colour = _nearest(pixels[contrast >= INK_SHARE * contrast.max()].mean(axis=0), COLOURS)
    direction = np.array(COLOURS[colour]) - ground
    ink = ((pixels - ground) @ direction / (direction @ direction)).clip(0, 1).astype(np.float32)
    return Reading(int(classifier().predict(features(ink[None]))[0]), colour, background)


def features(ink: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale ink (n, size, size) down to what the scans are, 8x8, flattened (n, 64)."""
    small = [np.asarray(Image.fromarray(picture).resize((SCAN, SCAN), Image.Resampling.BOX)) for picture in ink]
    return np.stack(small).reshape(len(ink), -1)


@cache
def classifier() -> "SVC":
    """A support vector machine, trained (in about a second) on the training scans, each moved by up to a pixel."""
    try:
        from sklearn.svm import SVC
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "reading digits needs scikit-learn, which is not installed: pip install 'omnipipeline[dev]'"
        ) from error
    scans, _ = split()
    drawn = glyphs(scans.images, GLYPH_SIZE)
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return SVC(C=10).fit(
        np.concatenate([features(moved(drawn, down, right)) for down, right in shifts]),
        np.tile(scans.labels, len(shifts)),
    )


def held_out_accuracy(size: int = GLYPH_SIZE) -> float:
    """The share of scans that the classifier has never seen and reads correctly, drawn at `size`."""
    held_out: Scans = split()[1]
    read_as = classifier().predict(features(glyphs(held_out.images, size)))
    return float((read_as == held_out.labels).mean())


def _nearest(rgb: NDArray[np.float32], names: dict[str, Rgb]) -> str:
    return min(names, key=lambda name: float(np.square(rgb - np.array(names[name])).sum()))
