"""data: URLs (RFC 2397) to files, in the spellings that browsers and libraries write.

The server fetches no URLs: a server that opens addresses from clients can be used to attack its own network.
"""

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from omni_worker.errors import RequestError

NOT_FETCHED = "this server fetches nothing: send the image itself, as data:image/png;base64,…"
WHITESPACE = re.compile(r"\s+")


def decode_data_url(url: str, field: str) -> bytes:
    """The file in a data: URL. Raises RequestError, naming the field.

    Base64 may contain line breaks, be percent-encoded, use the alphabet for URLs, and lack its padding. Data that is
    not in base64 is percent-encoded.
    """
    scheme, colon, rest = url.strip().partition(":")
    if not colon or scheme.lower() != "data":
        raise RequestError("invalid", f"{field}: {NOT_FETCHED}", field)
    media_type, comma, data = rest.partition(",")
    if not comma:
        raise RequestError(
            "invalid", f"{field}: a data: URL needs a comma before its data: data:image/png;base64,…", field
        )
    if not data.strip():
        raise RequestError("invalid", f"{field}: the data: URL has no data", field)
    if media_type.rstrip().rpartition(";")[2].strip().lower() != "base64":
        return unquote_to_bytes(data)
    text = unquote_to_bytes(data).decode("latin-1") if "%" in data else data
    text = WHITESPACE.sub("", text).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError("invalid", f"{field}: the data: URL is not in base64: {error}", field) from error
