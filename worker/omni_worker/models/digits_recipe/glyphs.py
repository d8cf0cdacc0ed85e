"""Handwritten digits, from 8x8 scans to clean strokes at any size. Needs scikit-learn; imports no torch.

The scans are split once, for everyone: the model and the reader learn from the training part, and the held-out part
tells how well the reader reads. Only the model is choosy: it learns from scans that a person would read at a glance.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SCAN = 8
INK = 0.45
SUPERSAMPLING = 4
NEIGHBOURS = 8
TYPICAL = 50
HOLES = {0: {1}, 1: {0}, 2: {0}, 3: {0}, 4: {0, 1}, 5: {0}, 6: {1}, 7: {0}, 8: {2}, 9: {1}}


@dataclass(frozen=True)
class Scans:
    """Scans (n, 8, 8) with ink from 0 to 1, and the digit that each one shows (n,)."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def only(self, chosen: NDArray[np.int64]) -> "Scans":
        """The scans at the indices `chosen`."""
        return Scans(self.images[chosen], self.labels[chosen])


@cache
def split() -> tuple[Scans, Scans]:
    """All scans as (training part, held-out part), four to one, every digit in proportion."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target, test_size=0.2, random_state=0, stratify=digits.target
    )
    return Scans(train_x, train_y), Scans(test_x, test_y)


def glyphs(scans: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Draw scans (n, 8, 8) as smooth strokes (n, size, size), 0 paper to 1 ink, with a margin of size / 16."""
    inner, margin = size * 7 // 8, size // 16
    fine = inner * SUPERSAMPLING
    border = fine // SCAN
    out = np.zeros((len(scans), size, size), np.float32)
    for glyph, scan in zip(out, scans, strict=True):
        smooth = Image.fromarray(np.pad(scan, 1)).resize((fine + 2 * border,) * 2, Image.Resampling.BICUBIC)
        stroke = (np.asarray(smooth)[border:-border, border:-border] > INK).astype(np.float32)
        drawn = Image.fromarray(stroke).resize((inner, inner), Image.Resampling.BOX)
        glyph[margin : margin + inner, margin : margin + inner] = np.asarray(drawn)
    return out


def readable(scans: Scans) -> Scans:
    """The 50 scans of each digit that a person would read at a glance.

    Their nearest neighbours agree on the digit and are near; the drawn stroke is in one piece and closes the loops that
    the digit has (none in a three, two in an eight).
    """
    from scipy.ndimage import label  # type: ignore[import-untyped]
    from sklearn.neighbors import NearestNeighbors

    flat = scans.images.reshape(len(scans.images), -1)
    distance, nearest = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(flat).kneighbors(flat)
    oddness = np.where((scans.labels[nearest] == scans.labels[:, None]).all(axis=1), distance.mean(axis=1), np.inf)
    for index, (glyph, digit) in enumerate(zip(glyphs(scans.images, 64), scans.labels, strict=True)):
        pieces = label(glyph > 0.5, np.ones((3, 3)))[1]
        holes = label(np.pad(glyph <= 0.5, 1, constant_values=True))[1] - 1
        if pieces != 1 or holes not in HOLES[int(digit)]:
            oddness[index] = np.inf
    chosen = [np.flatnonzero(scans.labels == digit)[np.argsort(oddness[scans.labels == digit])] for digit in range(10)]
    return scans.only(np.concatenate([indices[:TYPICAL] for indices in chosen]))


def moved(pictures: NDArray[np.float32], down: int, right: int) -> NDArray[np.float32]:
    """Shift pictures (n, height, width) by whole pixels; the margin is wide enough for size / 16."""
    return np.roll(pictures, (down, right), (1, 2))
