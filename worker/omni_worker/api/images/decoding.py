"""Images that clients send: files to arrays. Nothing is decoded before the headers of all files are within the limits.

Decoding has its own threads, so that it delays nobody who sends no images, and a budget of memory. A file that waits
for a thread is not decoded if its client disconnects.
"""

import asyncio
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from omni_worker.api.images.headers import FORMATS, MAX_SCANS, ImageHeader, broken_file, read_header
from omni_worker.api.images.pixel_budget import PixelBudget
from omni_worker.errors import RequestError

MAX_IMAGES = 16
"""In one request."""
THREADS = 2
MAX_WAITING = 64
"""Requests whose images wait to be decoded."""
BUDGET_FACTOR = 8
"""The pixels of all decoded images that requests hold, as a multiple of `--max-pixels`."""
SCANS_AT_MAX_PIXELS = 24
"""Scans of a progressive JPEG of `--max-pixels`; a smaller image may have proportionally more, up to MAX_SCANS."""
WAIT_SECONDS = 60.0
OPAQUE_FROM = 128
"""Alpha values from this one on, of 255, count as opaque."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class DecodedImages:
    """Input images, as GenerationParams has them.

    images: uint8 of shape (height, width, 3)
    mask: uint8 of shape (height, width), 255 where to repaint; None for none
    size: width and height of the first image as it was sent
    """

    images: Sequence[np.ndarray] = ()
    mask: np.ndarray | None = None
    size: tuple[int, int] | None = None


class ImageDecoder:
    """Decodes the images of all requests of a head, within `max_pixels` for each request."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(THREADS, "decode-images")
        self._waiting = 0
        self._budget = PixelBudget(BUDGET_FACTOR * max_pixels)

    async def decode(
        self,
        files: Sequence[bytes],
        field: str,
        masks: Sequence[bytes] = (),
        scale_to: tuple[int, int] | None = None,
        takes_mask: bool = False,
    ) -> DecodedImages:
        """Decode the files of one request.

        masks: at most one, as large as the first image; transparent where to repaint
        scale_to: width and height to scale all images to
        takes_mask: whether the first image's own transparency is the mask if no mask was sent

        Raises RequestError: `invalid`, naming the field, or `busy` if others' images take all threads or memory.
        """
        if not files:
            return DecodedImages()
        if len(files) > MAX_IMAGES:
            raise RequestError("invalid", f"{field}: {len(files)} images are more than the {MAX_IMAGES} allowed", field)
        with self._queued():
            headers, mask_headers = await self._run(self._read_headers, files, field, masks)
            pixels = sum(header.pixels for header in [*headers, *mask_headers])
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._budget.acquire(pixels)
            except TimeoutError:
                raise RequestError("busy", "the images of other requests take all memory for images") from None
            try:
                decoded = await self._run(_decode_all, headers, mask_headers, field, scale_to, takes_mask)
            except BaseException:
                self._budget.release(pixels)
                raise
        self._budget.release_with(decoded.images, pixels)
        return decoded

    @contextmanager
    def _queued(self) -> Iterator[None]:
        if self._waiting >= MAX_WAITING + THREADS:
            raise RequestError("busy", f"the images of {MAX_WAITING} requests wait to be decoded", retry_after=1.0)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def _run(self, function: Callable[..., Result], *args: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(function, *args))

    def _read_headers(
        self, files: Sequence[bytes], field: str, masks: Sequence[bytes]
    ) -> tuple[list[ImageHeader], list[ImageHeader]]:
        """The headers of all images and masks. Raises RequestError if decoding them would take too much."""
        headers, pixels = [], 0
        for file in files:
            headers.append(header := read_header(file, field))
            pixels += header.pixels
            if pixels > self._max_pixels:
                together = f"{len(headers)} images with {pixels} pixels together"
                what = f"{header.width}x{header.height} pixels" if len(headers) == 1 else together
                message = f"{field}: {what} are more than the {self._max_pixels} allowed here: scale them down"
                raise RequestError("invalid", message, field)
            self._check_scans(header, field)
        mask_headers = [read_header(mask, "mask") for mask in masks]
        for mask in mask_headers:
            if (mask.width, mask.height) != (headers[0].width, headers[0].height):
                raise RequestError(
                    "invalid",
                    f"mask: {mask.width}x{mask.height} pixels, where the image has {headers[0].width}x"
                    f"{headers[0].height}: make them equal",
                    "mask",
                )
            self._check_scans(mask, "mask")
        return headers, mask_headers

    def _check_scans(self, header: ImageHeader, field: str) -> None:
        if header.scans > MAX_SCANS or header.scans * header.pixels > SCANS_AT_MAX_PIXELS * self._max_pixels:
            raise RequestError(
                "invalid",
                f"{field}: the JPEG file has too many scans for its size: save it as a baseline JPEG",
                field,
            )


def _decode_all(
    headers: Sequence[ImageHeader],
    masks: Sequence[ImageHeader],
    field: str,
    scale_to: tuple[int, int] | None,
    takes_mask: bool,
) -> DecodedImages:
    mask: np.ndarray | None = None
    images: list[np.ndarray] = []
    first_size: tuple[int, int] | None = None
    for header in masks:
        mask = mask_from_alpha(_decode(header, "mask"), scale_to)
        if mask is None:
            raise RequestError("invalid", "mask: nothing in it is transparent: make so what is to be repainted", "mask")
    for header in headers:
        image = _decode(header, field)
        first_size = first_size or image.size
        if mask is None and takes_mask and not images:
            mask = mask_from_alpha(image, scale_to)
        images.append(to_array(image, scale_to))
    return DecodedImages(images, mask, first_size)


def _decode(header: ImageHeader, field: str) -> Image.Image:
    """The image in a file, upright, in RGB or RGBA. Raises RequestError, naming the field."""
    try:
        with Image.open(io.BytesIO(header.file), formats=FORMATS) as image:
            image.load()
            upright = _to_8_bits(_upright(image))
            return upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    except Exception as error:  # a broken file can make decoders raise anything
        raise broken_file(header.file, field, error) from error


def _upright(image: Image.Image) -> Image.Image:
    """The image as its camera was held. It stays as it is if that cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken metadata can raise anything, and the image itself is fine
        return image


def _to_8_bits(image: Image.Image) -> Image.Image:
    """A 16-bit greyscale image in 8 bits, which Pillow's `convert` would clip. Others stay as they are."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    grey = Image.fromarray(((values * 255 + 32767) // 65535).clip(0, 255).astype(np.uint8))
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    grey.putalpha(Image.fromarray(np.where(values == transparent, np.uint8(0), np.uint8(255))))
    return grey


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
