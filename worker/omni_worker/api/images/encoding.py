"""Arrays to image files. Files are encoded in threads, off the event loop."""

import asyncio
import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from omni_worker.api.products import check_result
from omni_worker.requests import GenerationResult


def encode_image(array: np.ndarray, format: str = "png", quality: int | None = None) -> bytes:
    """A PNG, JPEG or WebP file of a uint8 array of shape (height, width, channels); one channel is greyscale.

    quality: of JPEG and WebP, from 0 to 100
    """
    image = Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array)
    if format == "jpeg" and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    options: dict[str, Any] = (
        {"compress_level": 1} if format == "png" else {"quality": 100 if quality is None else quality}
    )
    file = io.BytesIO()
    image.save(file, format.upper(), **options)
    return file.getvalue()


async def encode_base64(arrays: Sequence[np.ndarray], format: str = "png", quality: int | None = None) -> list[str]:
    """Files of these images, in base64."""

    def encode(array: np.ndarray) -> str:
        return base64.b64encode(encode_image(array, format, quality)).decode()

    return await asyncio.gather(*(asyncio.to_thread(encode, array) for array in arrays))


def image_of(result: GenerationResult) -> np.ndarray:
    """The image of a result, of shape (height, width, channels). Raises RequestError if it is none."""
    check_result("image", result)
    return result.images[0]
