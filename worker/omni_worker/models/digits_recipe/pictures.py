"""Training pictures: clean glyphs of readable scans, in colour. Imports no torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_worker.models.digits_recipe.captions import BACKGROUNDS, COLOURS, Request
from omni_worker.models.digits_recipe.glyphs import glyphs, readable, split


@dataclass(frozen=True)
class PictureBatch:
    """Pictures (n, 3, size, size) from -1 to 1, and what each one shows."""

    pictures: NDArray[np.float32]
    requests: list[Request]


class Album:
    """All the glyphs of one size, from which batches are drawn; every digit is equally likely."""

    def __init__(self, size: int, seed: int) -> None:
        scans, _ = split()
        chosen = readable(scans)
        self.size = size
        self._random = np.random.default_rng(seed)
        self._glyphs = [glyphs(chosen.images[chosen.labels == digit], size) for digit in range(10)]

    def draw(self, count: int) -> PictureBatch:
        """`count` pictures of random digits, handwriting, colours and backgrounds."""
        random = self._random
        requests = [
            Request(int(random.integers(10)), str(random.choice(list(COLOURS))), str(random.choice(list(BACKGROUNDS))))
            for _ in range(count)
        ]
        return PictureBatch(np.stack([self._picture(request) for request in requests]), requests)

    def _picture(self, request: Request) -> NDArray[np.float32]:
        shapes = self._glyphs[request.digit]
        ink = shapes[[self._random.integers(len(shapes))]]
        colour, background = (
            np.array(rgb, np.float32)[:, None, None]
            for rgb in (COLOURS[request.colour], BACKGROUNDS[request.background])
        )
        return (ink * colour + (1 - ink) * background) * 2 - 1
