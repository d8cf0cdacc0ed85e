"""Downloads of a part of a file: HTTP range requests (RFC 9110, section 14) with a single range."""

import re
from collections.abc import Mapping

from fastapi.responses import Response

from omni_worker.api.errors import ApiError
from omni_worker.api.videos.records import VideoFile

RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


def range_response(file: VideoFile, etag: str, headers: Mapping[str, str]) -> Response:
    """The file, or the part of it that the request's `Range` header asks for.

    The whole file is sent for several ranges, for ranges that are not valid, and if `If-Range` names another ETag than
    the file's own. Raises ApiError 416 if the file has none of the bytes.
    """
    response_headers = {"Accept-Ranges": "bytes", "ETag": etag}
    range = RANGE.fullmatch(headers.get("range", "").strip())
    if range is None or range.group(1, 2) == ("", "") or headers.get("if-range", etag) != etag:
        return Response(file.data, media_type=file.media_type, headers=response_headers)
    size = len(file.data)
    start, end = range.groups()
    if start and end and int(end) < int(start):
        return Response(file.data, media_type=file.media_type, headers=response_headers)
    if start:
        first, last = int(start), min(int(end or size), size - 1)
    else:  # the last `end` bytes
        first, last = max(0, size - int(end)), size - 1
    if first > last:
        raise ApiError(
            416, f"Range: the file has {size} bytes, and none of those that are asked for", "Range", "invalid_range",
            {"Content-Range": f"bytes */{size}"},
        )  # fmt: skip
    response_headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    part = file.data[first : last + 1]
    return Response(part, status_code=206, media_type=file.media_type, headers=response_headers)
