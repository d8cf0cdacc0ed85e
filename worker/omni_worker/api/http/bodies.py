"""The bodies of requests, as ASGI middleware: their size, their coding, and the memory of all of them together."""

import asyncio
import zlib
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni_worker.api.errors import error_response

FREE_BYTES = 64 << 10
"""Of each body, which are not counted, so that small requests pass while large ones fill the memory."""
PIECE = 256 << 10
"""The most that is decoded at one time, so that the event loop never waits for a long decoding."""
CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
CLOSE = {"Connection": "close"}


@dataclass
class BodyMemory:
    """Counts the bytes of all bodies that are kept."""

    most: int
    used: int = 0

    def take(self, size: int) -> bool:
        """Count `size` bytes more. Returns False, and counts nothing, if that would be too many."""
        if self.used + size > self.most:
            return False
        self.used += size
        return True


class Bodies:
    """Gives the app bodies that are decoded and not too large: else 400, 413, 415 or 503."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_bytes_together: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._memory = BodyMemory(max(max_bytes, max_bytes_together))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length, coding = headers.get("content-length", ""), _coding(headers)
        if length.isdecimal() and int(length) > self._max_bytes:
            response = error_response(413, _too_long(self._max_bytes), code="body_too_large", headers=CLOSE)
            await response(scope, receive, send)
            return
        if coding and coding not in CODINGS:
            message = f"Content-Encoding: {coding}: send the body as it is, or encoded with gzip or deflate"
            accepted = {**CLOSE, "Accept-Encoding": "gzip, deflate"}
            await error_response(415, message, code="unsupported_coding", headers=accepted)(scope, receive, send)
            return
        body = _Body(receive, self._max_bytes, self._memory, Decoder() if coding else None)
        if coding:
            dropped = (b"content-encoding", b"content-length")
            scope = {**scope, "headers": [header for header in scope["headers"] if header[0] not in dropped]}
        try:
            await self._app(scope, body.receive, send)
        finally:
            self._memory.used -= body.counted


class Decoder:
    """Decodes gzip, also of several members, and zlib, which HTTP calls deflate. Raises zlib.error."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=47)  # 15, and 32 to recognize which of the two it is
        self._input = b""
        self._may_have_more = False

    def feed(self, data: bytes) -> None:
        """Add encoded bytes."""
        self._input += data

    def read(self) -> bytes:
        """Up to PIECE decoded bytes; none if it needs more input."""
        while self._input or self._may_have_more:
            if self._inflate.eof:
                self._inflate = zlib.decompressobj(wbits=47)
            data = self._inflate.decompress(self._input, PIECE)
            self._input = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            self._may_have_more = len(data) == PIECE and not self._inflate.eof
            if data:
                return data
        return b""

    @property
    def is_complete(self) -> bool:
        """Whether the input so far is complete."""
        return self._inflate.eof and not self._input


class _Body:
    """The body of one request."""

    def __init__(self, receive: Receive, max_bytes: int, memory: BodyMemory, decoder: Decoder | None) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._memory = memory
        self._decoder = decoder
        self._is_read = False  # all of it, as it was sent
        self._is_over = False  # and all of it was given to the app
        self._sent = self._size = 0  # bytes as they were sent, and decoded
        self.counted = 0

    async def receive(self) -> Message:
        """ASGI's `receive`. Raises HTTPException."""
        if self._is_over:
            return await self._receive()
        try:
            data = await (self._read() if self._decoder is None else self._read_decoded(self._decoder))
        except zlib.error as error:
            raise HTTPException(400, "it is not what Content-Encoding says, or it is cut off", CLOSE) from error
        if data is None:
            self._is_over = True
            return {"type": "http.disconnect"}
        self._count(data)
        return {"type": "http.request", "body": data, "more_body": not self._is_over}

    async def _read_decoded(self, decoder: Decoder) -> bytes | None:
        """The next decoded piece; None if the client has left. Raises zlib.error."""
        await asyncio.sleep(0)  # other requests take their turn between two pieces
        data = decoder.read()
        while not data and not self._is_read:
            encoded = await self._read()
            if encoded is None:
                return None
            decoder.feed(encoded)
            data = decoder.read()
        self._is_over = not data
        if self._is_over and self._sent and not decoder.is_complete:
            raise zlib.error("cut off")
        return data

    async def _read(self) -> bytes | None:
        """The next piece as it was sent; None if the client has left."""
        message = await self._receive()
        if message["type"] != "http.request":
            return None
        data: bytes = message.get("body", b"")
        self._sent += len(data)
        if self._sent > self._max_bytes:
            raise HTTPException(413, _too_long(self._max_bytes), CLOSE)
        self._is_read = not message.get("more_body", False)
        self._is_over = self._is_read and self._decoder is None
        return data

    def _count(self, data: bytes) -> None:
        before, self._size = self._size, self._size + len(data)
        if self._size > self._max_bytes:
            raise HTTPException(413, _too_long(self._max_bytes), CLOSE)
        counted = max(0, self._size - FREE_BYTES) - max(0, before - FREE_BYTES)
        if not self._memory.take(counted):
            message = "the bodies of other requests fill the memory that this server has for them: try again later"
            raise HTTPException(503, message, CLOSE)
        self.counted += counted


def _coding(headers: Headers) -> str:
    """The codings of the body; nothing if it is sent as it is."""
    codings = [coding.strip().lower() for value in headers.getlist("content-encoding") for coding in value.split(",")]
    return ", ".join(coding for coding in codings if coding not in ("", "identity"))


def _too_long(max_bytes: int) -> str:
    return f"the body is longer than the {max_bytes} bytes allowed here: send smaller pictures, or fewer"
