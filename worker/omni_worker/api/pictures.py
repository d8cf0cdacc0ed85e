"""Pictures as files, encoded in threads so that the event loop never waits for one."""

import asyncio
import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image


def png(picture: np.ndarray) -> bytes:
    """A PNG file of a uint8 picture of shape (height, width, channels); grey where there is one channel."""
    file = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


async def in_base64(pictures: Sequence[np.ndarray]) -> list[str]:
    """PNG files of these pictures."""
    return await asyncio.gather(
        *(asyncio.to_thread(lambda one: base64.b64encode(png(one)).decode(), picture) for picture in pictures)
    )
