"""Image files that are sent with a request. They are read and checked before anything is sent."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

IMAGE_REQUIRED = "give --image FILE"
# The first bytes of a file, by media type.
SIGNATURES = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}

Upload = tuple[str, tuple[str, bytes, str]]
"""A field of a multipart form, and its file: name, content, media type."""


class UnusableImage(Exception):
    """An image file cannot be read, or has no accepted format."""

    exit_code = 2


def read_upload(field: str, flag: str, file: str) -> Upload:
    """Read the image file of a flag, as `field` of a form. Raises UnusableImage."""
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise UnusableImage(f"{flag} {file}: cannot be read: {error.strerror}") from None
    for media_type, signature in SIGNATURES.items():
        if signature.match(content):
            return field, (Path(file).name, content, media_type)
    raise UnusableImage(f"{flag} {file}: not a picture in PNG, JPEG or WebP")


def post(
    client: httpx.Client,
    path: str,
    request: dict[str, Any],
    uploads: Sequence[Upload],
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """POST a request: as a multipart form if it has uploads, as JSON otherwise."""
    if uploads:
        return client.post(path, data=form_fields(request), files=uploads, headers=headers)
    return client.post(path, json=request, headers=headers)


def form_fields(request: dict[str, Any]) -> dict[str, Any]:
    """A request as the fields of a form, which has no lists and objects: those are sent as JSON texts."""
    return {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in request.items()}
