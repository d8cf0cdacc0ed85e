"""Images that clients send: files and data: URLs to arrays. Files are decoded in threads, off the event loop.

The server fetches no URLs: a server that opens addresses from clients can be used to attack its own network.
"""

import asyncio
import base64
import binascii
import io

import numpy as np
from PIL import Image, ImageOps

from omni_worker.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP")
OPAQUE_FROM = 128
"""Alpha values from this one on, of 255, count as opaque."""
NOT_FETCHED = "this server fetches nothing: send the picture itself, as data:image/png;base64,…"


async def decode_image(file: bytes, field: str, max_pixels: int) -> Image.Image:
    """The image in a file, upright, in RGB or RGBA. Raises RequestError, naming the field."""
    return await asyncio.to_thread(_decode_image, file, field, max_pixels)


def _decode_image(file: bytes, field: str, max_pixels: int) -> Image.Image:
    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise RequestError(
                    "invalid",
                    f"{field}: {width}x{height} pixels are more than the {max_pixels} allowed here: scale it down",
                    field,
                )
            upright = ImageOps.exif_transpose(image)
            return upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    except RequestError:
        raise
    except Exception as error:  # a broken file can make decoders raise anything
        raise RequestError("invalid", f"{field}: not a picture in PNG, JPEG or WebP", field) from error


def decode_data_url(url: str, field: str) -> bytes:
    """The file in a data: URL. Raises RequestError, naming the field."""
    scheme, colon, rest = url.partition(":")
    if scheme.lower() != "data" or not colon:
        raise RequestError("invalid", f"{field}: {NOT_FETCHED}", field)
    media_type, comma, data = rest.partition(",")
    if not comma or not media_type.endswith(";base64"):
        raise RequestError("invalid", f"{field}: not a data: URL in base64: data:image/png;base64,…", field)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError("invalid", f"{field}: the data: URL is not in base64: {error}", field) from error


def to_array(image: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 of shape (height, width, 3), scaled to `size` (width, height) if given. Drops the alpha channel."""
    rgb = image.convert("RGB")
    return np.array(rgb.resize(size, Image.Resampling.LANCZOS) if size and size != rgb.size else rgb)


def mask_from_alpha(image: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray | None:
    """uint8 of shape (height, width): 255 where the image is transparent, 0 elsewhere. None if it is all opaque."""
    if "A" not in image.getbands():
        return None
    alpha = image.getchannel("A")
    if size and size != alpha.size:
        alpha = alpha.resize(size, Image.Resampling.NEAREST)
    is_transparent = np.array(alpha) < OPAQUE_FROM
    return np.where(is_transparent, np.uint8(255), np.uint8(0)) if is_transparent.any() else None


def to_arrays(
    images: list[Image.Image], masks: list[Image.Image], size: tuple[int, int] | None, takes_mask: bool
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """The `images` and `mask` of GenerationParams, scaled to `size` (width, height) if given.

    masks: at most one, as large as the first image; transparent where to repaint
    takes_mask: whether the first image's own transparency is the mask if no mask was sent

    Raises RequestError, naming the field.
    """
    first = images[0]
    mask = None
    for sent in masks:
        if sent.size != first.size:
            (mask_width, mask_height), (image_width, image_height) = sent.size, first.size
            raise RequestError(
                "invalid",
                f"mask: {mask_width}x{mask_height} pixels, where the picture has {image_width}x{image_height}: "
                "make them equal",
                "mask",
            )
        mask = mask_from_alpha(sent, size)
        if mask is None:
            raise RequestError("invalid", "mask: nothing in it is transparent: make so what is to be painted", "mask")
    if mask is None and takes_mask:
        mask = mask_from_alpha(first, size)
    return [to_array(image, size) for image in images], mask
