"""Pictures as files, encoded in threads so that the event loop never waits for one."""

import asyncio
import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from omni_worker.errors import RequestError
from omni_worker.requests import GenerationResult


def encoded(picture: np.ndarray, format: str = "png", quality: int | None = None) -> bytes:
    """A PNG, JPEG or WebP file of a uint8 picture of shape (height, width, channels); grey where there is one channel.
    `quality` is from 0 to 100, for the latter two."""
    image = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture)
    if format == "jpeg" and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    options: dict[str, Any] = (
        {"compress_level": 1} if format == "png" else {"quality": 100 if quality is None else quality}
    )
    file = io.BytesIO()
    image.save(file, format.upper(), **options)
    return file.getvalue()


async def in_base64(pictures: Sequence[np.ndarray], format: str = "png", quality: int | None = None) -> list[str]:
    """Files of these pictures."""
    return await asyncio.gather(
        *(
            asyncio.to_thread(lambda one: base64.b64encode(encoded(one, format, quality)).decode(), picture)
            for picture in pictures
        )
    )


def picture_of(result: GenerationResult) -> np.ndarray:
    """The picture that a request gave. Raises RequestError where it gave a video."""
    picture = result.images[0]
    if picture.ndim != 3:
        raise RequestError("invalid", "this pipeline makes videos: POST /v1/videos takes the request", "model")
    return picture
