"""A part of a file, where a client asks for one: HTTP's range requests (RFC 9110, section 14), of one range."""

import re
from collections.abc import Mapping

from fastapi.responses import Response

from omni_worker.api.errors import ApiError
from omni_worker.api.videos.records import File

RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII | re.IGNORECASE)


def part(file: File, tag: str, headers: Mapping[str, str]) -> Response:
    """The answer to a request with these headers: all of the file, or the part of it that is asked for.

    `tag` is the file's ETag. Several ranges, or what is no range of bytes, are answered with all of it, as is a part of
    a file that is no longer the one that `If-Range` names. Raises ApiError 416 for a part that is not there.
    """
    told = {"Accept-Ranges": "bytes", "ETag": tag}
    asked = RANGE.fullmatch(headers.get("range", "").strip())
    if asked is None or asked.group(1, 2) == ("", "") or headers.get("if-range", tag) != tag:
        return Response(file.data, media_type=file.media_type, headers=told)
    size = len(file.data)
    if asked[1]:
        first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
    else:
        first, last = max(0, size - int(asked[2])), size - 1
    if asked[1] and asked[2] and int(asked[2]) < int(asked[1]):
        return Response(file.data, media_type=file.media_type, headers=told)
    if first > last:
        raise ApiError(
            416, f"Range: the file has {size} bytes, and none of those that are asked for", "Range", "invalid_range",
            {"Content-Range": f"bytes */{size}"},
        )  # fmt: skip
    told["Content-Range"] = f"bytes {first}-{last}/{size}"
    return Response(file.data[first : last + 1], status_code=206, media_type=file.media_type, headers=told)
