"""Pictures that clients send: files and data: URLs -> arrays. Decoded in threads, so that the event loop never waits.

Nothing is fetched from anywhere: a server that opens the addresses it is given can be turned against its own network.
"""

import asyncio
import base64
import binascii
import io

import numpy as np
from PIL import Image, ImageOps

from omni_worker.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP")
NOT_FETCHED = "this server fetches nothing: send the picture itself, as data:image/png;base64,…"


async def opened(file: bytes, field: str, most_pixels: int) -> Image.Image:
    """The picture in a file, upright, in RGB or RGBA. Raises RequestError, naming the field."""
    return await asyncio.to_thread(_opened, file, field, most_pixels)


def _opened(file: bytes, field: str, most_pixels: int) -> Image.Image:
    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as found:
            width, height = found.size
            if width * height > most_pixels:
                raise RequestError(
                    "invalid",
                    f"{field}: {width}x{height} pixels are more than the {most_pixels} allowed here: scale it down",
                    field,
                )
            upright = ImageOps.exif_transpose(found)
            return upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    except RequestError:
        raise
    except Exception as error:  # decoders raise whatever a broken file makes them trip over
        raise RequestError("invalid", f"{field}: not a picture in PNG, JPEG or WebP", field) from error


def of_data_url(url: str, field: str) -> bytes:
    """The file in a data: URL. Raises RequestError, naming the field."""
    scheme, colon, rest = url.partition(":")
    if scheme.lower() != "data" or not colon:
        raise RequestError("invalid", f"{field}: {NOT_FETCHED}", field)
    kind, comma, data = rest.partition(",")
    if not comma or not kind.endswith(";base64"):
        raise RequestError("invalid", f"{field}: not a data: URL in base64: data:image/png;base64,…", field)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError("invalid", f"{field}: the data: URL is not in base64: {error}", field) from error


def as_array(picture: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 of shape (height, width, 3), scaled to `size` where one is given; what is transparent keeps its colour."""
    rgb = picture.convert("RGB")
    return np.array(rgb.resize(size, Image.Resampling.LANCZOS) if size and size != rgb.size else rgb)


def mask_of(picture: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray | None:
    """255 where a picture is transparent and 0 elsewhere, of shape (height, width); None where it has no such place."""
    if "A" not in picture.getbands():
        return None
    alpha = picture.getchannel("A")
    if size and size != alpha.size:
        alpha = alpha.resize(size, Image.Resampling.NEAREST)
    transparent = np.array(alpha) < 128
    return np.where(transparent, np.uint8(255), np.uint8(0)) if transparent.any() else None


def arrays(
    pictures: list[Image.Image], masks: list[Image.Image], size: tuple[int, int] | None, takes_mask: bool
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Pictures and a mask as a pipeline takes them, scaled to `size` where one is given. A picture may be its own mask.

    Raises RequestError, naming the field.
    """
    first = pictures[0]
    mask = None
    for given in masks:
        if given.size != first.size:
            (mask_width, mask_height), (own_width, own_height) = given.size, first.size
            raise RequestError(
                "invalid",
                f"mask: {mask_width}x{mask_height} pixels, where the picture has {own_width}x{own_height}: "
                "make them equal",
                "mask",
            )
        mask = mask_of(given, size)
        if mask is None:
            raise RequestError("invalid", "mask: nothing in it is transparent: make so what is to be painted", "mask")
    if mask is None and takes_mask:
        mask = mask_of(first, size)
    return [as_array(picture, size) for picture in pictures], mask
