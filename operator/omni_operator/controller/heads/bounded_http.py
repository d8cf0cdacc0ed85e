"""One HTTP GET of JSON from a server that nobody vouches for: the deadline and the size limit cover all of it.

The deadline covers connecting, the TLS handshake, the headers and the body together, so a server that sends one byte
per second gains nothing. It follows no redirect, decodes no compression, and accepts only `application/json`. Blocking.
"""

import io
import ssl
import time
from http.client import HTTPException, HTTPResponse
from socket import create_connection, socket
from urllib.parse import urlsplit

HEADER_BYTES = 64 * 1024
"""What the status line, the headers and the framing of chunks may take beside the body."""


class BadAnswer(Exception):
    """There is no usable answer; the message says why."""


def get_json(address: str, path: str, seconds: float, max_bytes: int, context: ssl.SSLContext) -> bytes:
    """The body at a path of a server, which declares it to be JSON. `context`: for https. Raises BadAnswer."""
    try:
        return _get_json(address + path, time.monotonic() + seconds, max_bytes, context)
    except TimeoutError:
        raise BadAnswer(f"no complete answer within {seconds:g} s") from None
    # ValueError: http.client passes on what int() and bytes say about malformed numbers.
    except (OSError, HTTPException, ValueError) as error:
        raise BadAnswer(str(error) or type(error).__name__) from None


def _get_json(url: str, deadline: float, max_bytes: int, context: ssl.SSLContext) -> bytes:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with create_connection((parts.hostname or "", port), timeout=_left(deadline)) as plain:
        plain.settimeout(_left(deadline))
        if parts.scheme == "https":
            with context.wrap_socket(plain, server_hostname=parts.hostname) as encrypted:
                return _exchange(encrypted, url, deadline, max_bytes)
        return _exchange(plain, url, deadline, max_bytes)


def _exchange(connection: socket, url: str, deadline: float, max_bytes: int) -> bytes:
    """Send the request and read the answer, on an open connection."""
    parts = urlsplit(url)
    fields = {
        "Host": parts.netloc.rpartition("@")[2],
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    lines = [f"GET {parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    connection.settimeout(_left(deadline))
    connection.sendall("\r\n".join(lines).encode("latin-1"))
    response = HTTPResponse(BoundedSocket(connection, deadline, max_bytes + HEADER_BYTES), method="GET")  # type: ignore[arg-type]
    with response:
        response.begin()
        _require_json(response)
        if response.length is not None and response.length > max_bytes:
            raise BadAnswer(f"its answer has {response.length} bytes; at most {max_bytes} are read")
        body = response.read(max_bytes + 1)
        if len(body) > max_bytes:
            raise BadAnswer(f"its answer has more than {max_bytes} bytes")
        if response.length:
            raise BadAnswer(f"its answer ended {response.length} bytes early")
        return body


def _require_json(response: HTTPResponse) -> None:
    if response.status != 200:
        raise BadAnswer(f"it answers with HTTP status {response.status}")
    kind = response.headers.get_content_type()
    if kind != "application/json":
        raise BadAnswer(f"it answers with {kind[:80]!r}; expected 'application/json'")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise BadAnswer(f"its answer is encoded as {encoding[:80]!r}, which was not asked for")


def _left(deadline: float) -> float:
    """Seconds until the deadline. Raises TimeoutError if there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class BoundedSocket:
    """What HTTPResponse needs of a socket: a file to read from, here with the deadline and the size limit."""

    def __init__(self, connection: socket, deadline: float, max_bytes: int) -> None:
        self._reader = BoundedReader(connection, deadline, max_bytes)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._reader)


class BoundedReader(io.RawIOBase):
    """Reads from a socket until the deadline, and at most `max_bytes` in all."""

    def __init__(self, connection: socket, deadline: float, max_bytes: int) -> None:
        self._connection, self._deadline, self._bytes_left = connection, deadline, max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._connection.settimeout(_left(self._deadline))
        count = self._connection.recv_into(buffer)
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise BadAnswer("its answer is too long")
        return count
