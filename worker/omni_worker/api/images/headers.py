"""What an image file says about itself before it is decoded: its format, its size, and how costly it is to decode."""

import io
import re
import struct
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from omni_worker.errors import RequestError

Image.MAX_IMAGE_PIXELS = None  # `--max-pixels` is the limit, and is checked before anything is decoded
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PNG_CHUNKS = 2**16
MAX_SCANS = 100
"""Scans of a progressive JPEG. Encoders write about ten; each of them passes over the whole image."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
"""The chunks that are decoded. Decoders refuse files for others: long texts, broken colour profiles."""
JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""A marker in the data of a scan, where 0xff00 is data and 0xffd0 to 0xffd7 only restart it."""
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
MARKERS_ALONE = (0x01, 0xD8)
"""Other markers begin a segment, which says how long it is."""
OTHER_FORMATS = (
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"BM"), "BMP"),
    (re.compile(rb"II\*\0|MM\0\*"), "TIFF"),
    (re.compile(rb"....ftyp(?:hei|hev|mif|msf)", re.DOTALL), "HEIC"),
    (re.compile(rb"....ftypavi", re.DOTALL), "AVIF"),
    (re.compile(rb"\s*<(?:\?xml|svg|!DOCTYPE svg)", re.IGNORECASE), "SVG"),
    (re.compile(rb"%PDF"), "PDF"),
)


@dataclass(frozen=True)
class ImageHeader:
    """An image file that is not decoded yet.

    file: the file, without what is not needed to decode it
    scans: how often decoding passes over the image
    """

    file: bytes
    format: str
    width: int
    height: int
    scans: int = 1

    @property
    def pixels(self) -> int:
        """The number of its pixels."""
        return self.width * self.height


def read_header(file: bytes, field: str) -> ImageHeader:
    """The header of a PNG, JPEG or WebP file. Raises RequestError, naming the field and what is wrong."""
    try:
        cleaned = _decoded_chunks(file) if file.startswith(PNG_SIGNATURE) else file
        with Image.open(io.BytesIO(cleaned), formats=FORMATS) as image:
            (width, height), format = image.size, "JPEG" if image.format == "MPO" else image.format or ""
    except Exception as error:  # a broken file can make decoders raise anything
        raise broken_file(file, field, error) from error
    return ImageHeader(cleaned, format, width, height, _count_scans(file) if format == "JPEG" else 1)


def broken_file(file: bytes, field: str, error: Exception) -> RequestError:
    """The error for a file that cannot be decoded because of `error`."""
    if isinstance(error, RequestError):
        return error
    name = "PNG" if file.startswith(PNG_SIGNATURE) else "JPEG" if file.startswith(b"\xff\xd8") else ""
    name = name or ("WebP" if file[:4] == b"RIFF" and file[8:12] == b"WEBP" else "")
    if name:
        reason = "its header is not valid" if isinstance(error, UnidentifiedImageError) else error
        return RequestError("invalid", f"{field}: the {name} file is broken: {reason}", field)
    other = next((other for pattern, other in OTHER_FORMATS if pattern.match(file)), None)
    what = (
        f"{'an' if other[0] in 'AS' else 'a'} {other} file"
        if other
        else "an empty file"
        if not file
        else "not an image"
    )
    return RequestError("invalid", f"{field}: {what}: send PNG, JPEG or WebP", field)


def _decoded_chunks(file: bytes) -> bytes:
    """A PNG file with only the chunks that are decoded. Raises ValueError if it has too many chunks."""
    kept, place = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    for _ in range(MAX_PNG_CHUNKS):
        if place + 8 > len(file):
            return b"".join(kept)
        length, name = struct.unpack_from(">I4s", file, place)
        if name in PNG_CHUNKS:
            kept.append(file[place : place + length + 12])
        if name == b"IEND":
            return b"".join(kept)
        place += length + 12
    raise ValueError(f"it has more than {MAX_PNG_CHUNKS} chunks")


def _count_scans(file: bytes) -> int:
    """The number of scans of a JPEG file; stops counting above MAX_SCANS."""
    place, scans = 2, 0
    while scans <= MAX_SCANS and (marker := JPEG_MARKER.search(file, place)):
        kind, place = marker[0][1], marker.end()
        if kind == END_OF_IMAGE:
            break
        scans += kind == START_OF_SCAN
        if place + 2 <= len(file) and kind not in MARKERS_ALONE:
            place += struct.unpack_from(">H", file, place)[0]  # the marker's segment
    return max(1, scans)
