"""One HTTP connection: uvicorn's protocol, with bounded headers, deadlines, and what real clients and proxies do.

Everything here happens before a request reaches the app, so before its API key is checked. It must not know routes.
"""

import asyncio
import errno
import json
import math
import socket
import urllib.parse
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from omni_worker.api.http.cycle import Cycle

MAX_HEADER_BYTES = 64 << 10
"""Of the request line and all headers together."""
MAX_HEADERS = 200
HEADER_SECONDS = 30.0
"""From the first byte of a request, or from the connection, until its headers are complete."""
KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than proxies and pools of clients keep theirs (60 s is common)."""
MAX_CONNECTIONS = 4096
"""Of one server. At more, those that wait for a client are closed, the oldest first."""
MAX_PIPELINED = 32
"""Requests that wait behind one on the same connection. More end the connection after these."""
LINGER_SECONDS = 5.0
"""How long the rest of a body is discarded after an early response. Closing at once would destroy that response."""
READ_SECONDS = 60.0
"""A client that reads nothing of its response for so long is disconnected."""
PIECE = 16 << 10
"""The parser gets so many bytes at a time, so headers without an end are noticed within one piece."""
LOOK_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between looks whether a half-closed connection is closed; the last one repeats."""
PROBES = frozenset({0, 8, 33, 123, 603})
"""The looks at which an interim response is sent. Few: some clients accept only five."""
HOP_HEADERS = (b"connection", b"upgrade", b"http2-settings")
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(HttpToolsProtocol):
    """A connection whose headers are bounded in size, number and time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._silent_bytes = 0  # since the request began, its headers were complete, or a part of its body came
        self._in_headers = False
        self._kept_bytes = 0  # of these headers, as far as they are parsed
        self._is_too_large = False
        self._is_upgrade = False
        self._is_discarding = False  # nothing that still comes is read
        self._is_half_closed = False
        self._deadline: asyncio.TimerHandle | None = None
        self._reader_check: asyncio.TimerHandle | None = None

    # ---- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline for the first request."""
        super().connection_made(transport)
        self._set_deadline(HEADER_SECONDS, self._headers_too_late)
        if len(self.connections) > MAX_CONNECTIONS:
            waiting = (peer for peer in self.connections if isinstance(peer, Connection) and peer.waits_for_client)
            oldest = min(waiting, key=lambda peer: peer.waits_since, default=self)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._set_deadline(None)
        self._stop_reader_check()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    @property
    def waits_for_client(self) -> bool:
        """Whether no request is being answered: the client has sent none, or not all of it."""
        return not self._is_busy or self.cycle.more_body

    @property
    def waits_since(self) -> float:
        """The order in which connections became idle, roughly; one that sends a body comes last."""
        timer = self._deadline or self.timeout_keep_alive_task
        return timer.when() if timer else math.inf

    @property
    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Parse what has come, a piece at a time."""
        if self._is_discarding:
            return
        self._unset_keepalive_if_required()
        for start in range(0, len(data), PIECE):
            self._feed(data[start : start + PIECE])
            if self._is_discarding or self.transport.is_closing():
                return
        if not self._is_busy and self._deadline is None and self.timeout_keep_alive_task is None:
            self._set_deadline(HEADER_SECONDS, self._headers_too_late)  # empty lines begin no request

    def eof_received(self) -> bool:  # type: ignore[override]  # a transport reads what it returns
        """The client sends no more. Returns whether the connection stays open: a complete request is answered.

        The end of a closed connection looks the same at first. So an interim response is sent, which a closed client
        answers with a reset: then the request is aborted. HTTP/1.0 knows no interim responses, and nothing can be sent
        between two events of a stream, so a client that leaves a stream ends it.
        """
        if not self._is_busy or self.cycle.more_body or self._in_headers or self.scheme == "https":
            return False
        if self.cycle.response_started:
            return False
        if self.cycle.scope["http_version"] == "1.0" and self.cycle.scope["method"] not in ("GET", "HEAD"):
            return False
        self._is_half_closed = True
        self._look_for_reset(0)
        return True

    def _look_for_reset(self, looks: int) -> None:
        """Look again and again whether the client of a half-closed connection is gone, and sometimes make it tell."""
        if self.transport.is_closing():
            return
        may_probe = not self.cycle.response_started and not self.pipeline
        if looks in PROBES and may_probe and self.cycle.scope["http_version"] != "1.0":
            self.transport.write(INTERIM)
        connection: socket.socket = self.transport.get_extra_info("socket")
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (errno.EPIPE, errno.ECONNRESET):
            self.transport.abort()
            return
        seconds = LOOK_SECONDS[min(looks, len(LOOK_SECONDS) - 1)]
        self._set_deadline(seconds, lambda: self._look_for_reset(looks + 1))

    # ---- parsing

    def _feed(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._continue_without_upgrade(piece[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._reject(400, "the request is not valid HTTP/1.1", "invalid_request")
        else:
            if self._in_headers or (self._is_busy and self.cycle.more_body):
                self._silent_bytes += len(piece)
                self._is_too_large |= self._silent_bytes > MAX_HEADER_BYTES + PIECE
        if self._is_too_large and not self._is_discarding:
            limits = f"{MAX_HEADER_BYTES >> 10} KiB or {MAX_HEADERS} headers"
            self._reject(431, f"the request line and the headers are longer than {limits}", "headers_too_large")

    def _continue_without_upgrade(self, rest: bytes) -> None:
        """Parse the request again, as one that does not offer another protocol, and then its body, `rest`.

        A server may ignore the offer (RFC 9110, section 7.8). The parser would take the body for the new protocol.
        """
        self._is_upgrade = False
        method = self.scope["method"].encode()
        if method == b"CONNECT":
            self._reject(405, "this server is no proxy: it does not take CONNECT", "method_not_allowed")
            return
        tokens = [token.strip() for name, value in self.headers if name == b"connection" for token in value.split(b",")]
        kept = b", ".join(token for token in tokens if token.lower() not in HOP_HEADERS)
        headers = [header for header in self.headers if header[0] not in HOP_HEADERS]
        if kept:
            headers.append((b"connection", kept))
        start = b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())
        lines = [start, *(b"%s: %s" % header for header in headers), b"", b""]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join(lines) + rest)

    def on_message_begin(self) -> None:
        """A request starts."""
        if self._is_discarding:
            return
        super().on_message_begin()
        self._in_headers, self._silent_bytes, self._kept_bytes = True, 0, 0
        if not self._is_busy and self._deadline is None:
            self._set_deadline(HEADER_SECONDS, self._headers_too_late)

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        if self._keep(url):
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. Those beyond the limits are not kept, and neither are trailers, which come after the body."""
        if not self._in_headers:
            return
        if self._keep(name, value) and len(self.headers) < MAX_HEADERS:
            super().on_header(name, value)
        else:
            self._is_too_large = True

    def _keep(self, *parts: bytes) -> bool:
        """Count the parts. Returns whether the limit of the headers still has room for them."""
        self._kept_bytes += sum(len(part) + 2 for part in parts)
        self._is_too_large |= self._kept_bytes > MAX_HEADER_BYTES
        return not self._is_too_large

    def on_headers_complete(self) -> None:
        """Start the request, or queue it behind the one before, if it is valid."""
        self._in_headers, self._silent_bytes = False, 0
        self._set_deadline(None)
        if self._is_too_large or self._is_discarding:
            return
        self.scope["method"] = self.parser.get_method().decode("ascii")
        if self.parser.should_upgrade():
            self._is_upgrade = True
            return
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._reject(505, f"HTTP/{version} is not supported: use HTTP/1.1", "http_version_not_supported")
            return
        if (error := self._set_target()) or (error := _host_error(self.headers, version)):
            self._reject(400, error, "invalid_request")
            return
        if version != "1.1":
            self.scope["http_version"] = version
        previous = self.cycle
        self.cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if previous is None or previous.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _set_target(self) -> str | None:
        """Set the path and the query of the request. Returns an error if there is none."""
        try:
            url = httptools.parse_url(self.url)
            raw_path = url.path or b"/"
            path = urllib.parse.unquote(raw_path.decode("ascii"))
        except (httptools.HttpParserError, UnicodeDecodeError):
            return "the target of the request is not a valid path"
        self.scope["path"], self.scope["raw_path"] = self.root_path + path, self.root_path.encode() + raw_path
        self.scope["query_string"] = url.query or b""
        return None

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._silent_bytes = 0
        if not self._is_discarding:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of the body. The parser also says so where it stops at an offered upgrade."""
        if not (self._is_discarding or self._is_upgrade or self._is_too_large):
            super().on_message_complete()
            if len(self.pipeline) >= MAX_PIPELINED:  # the rest of what has come is not read
                self._reject(429, "too many requests at one time", "rate_limit_exceeded")

    # ---- the end of a request

    def on_response_complete(self) -> None:
        """Wait for the next request, or end the connection."""
        if isinstance(self.cycle, Cycle) and self.cycle.lingers and self.cycle.response_complete:
            self._linger()
        elif self._is_half_closed and not self.pipeline:
            self.transport.close()
        else:
            super().on_response_complete()
            if self._in_headers:  # of the next request, which the client began before this response
                self._unset_keepalive_if_required()
                self._set_deadline(HEADER_SECONDS, self._headers_too_late)

    def pause_writing(self) -> None:
        """The client reads more slowly than the response is written."""
        super().pause_writing()
        self._stop_reader_check()
        self._check_reader(self.transport.get_write_buffer_size() + 1)

    def resume_writing(self) -> None:
        """The client has read most of it."""
        super().resume_writing()
        self._stop_reader_check()

    def _check_reader(self, previous_size: int) -> None:
        """Close the connection if the client has read nothing since the last look, when so many bytes were unsent."""
        size = self.transport.get_write_buffer_size()
        if size >= previous_size:
            self.transport.abort()
        else:
            self._reader_check = self.loop.call_later(READ_SECONDS, self._check_reader, size)

    def _stop_reader_check(self) -> None:
        if self._reader_check is not None:
            self._reader_check.cancel()

    def _headers_too_late(self) -> None:
        if self._is_busy:
            return  # `on_response_complete` starts the deadline again
        self.transport.close()

    def _reject(self, status: int, message: str, code: str) -> None:
        """Answer a request that never reaches the app, and end the connection."""
        self._is_discarding = True
        self._in_headers = False
        if self._is_busy and not self.cycle.more_body:  # the connection ends with the response to the request before
            self.cycle.keep_alive = False
            return
        if self._is_busy:  # it is the body of the running request that is wrong
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started or self.pipeline:
                self.transport.abort()
                return
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        body = json.dumps({"error": error}).encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self._linger()

    def _linger(self) -> None:
        """Close the connection once the client had time to read the response."""
        self._is_discarding = True
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._set_deadline(LINGER_SECONDS, self.transport.close)

    def _set_deadline(self, seconds: float | None, on_end: Callable[[], None] = lambda: None) -> None:
        """Call `on_end` in so many seconds, instead of what the deadline before would call; None: nothing."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._end_deadline, on_end)

    def _end_deadline(self, on_end: Callable[[], None]) -> None:
        self._deadline = None
        on_end()


def _host_error(headers: list[tuple[bytes, bytes]], version: str) -> str | None:
    """Why the Host headers are wrong (RFC 9112, section 3.2); None if they are not."""
    count = sum(name == b"host" for name, _ in headers)
    if count > 1 or (count == 0 and version == "1.1"):
        return "a request of HTTP/1.1 needs exactly one Host header"
    return None
