"""Pictures that go with a request: read, and known to be pictures, before anything is sent."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

GIVE_ONE = "give --image FILE"
# How files of the kinds that a pipeline takes begin.
KINDS = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}

# Field of the form, and its file: name, content, media type.
Upload = tuple[str, tuple[str, bytes, str]]


class BadPicture(Exception):
    """A file cannot be sent."""

    exit_code = 2


def upload(field: str, flag: str, file: str) -> Upload:
    """A file that `flag` names, as `field` of a form. Raises BadPicture."""
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise BadPicture(f"{flag} {file}: cannot be read: {error.strerror}") from None
    for kind, beginning in KINDS.items():
        if beginning.match(content):
            return field, (Path(file).name, content, kind)
    raise BadPicture(f"{flag} {file}: not a picture in PNG, JPEG or WebP")


def send(
    client: httpx.Client,
    path: str,
    request: dict[str, Any],
    uploads: Sequence[Upload],
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """POST a request: as a form where files go with it, and in JSON otherwise."""
    if uploads:
        return client.post(path, data=request, files=uploads, headers=headers)
    return client.post(path, json=request, headers=headers)
