"""One request and its response on a connection, for clients that uvicorn's own class does not answer correctly."""

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

BODY_SECONDS = 30.0
"""A body may take so long ..."""
BODY_BYTES_PER_SECOND = 10_000
"""... and a second more for so many bytes that have come."""


class Cycle(RequestResponseCycle):
    """One request and its response.

    A response that starts before the body is complete ends the connection, and one of unknown length to HTTP/1.0 is
    not chunked: it ends with the connection.
    """

    lingers = False
    _ends_with_connection = False
    _deadline: float | None = None
    _received = 0

    async def receive(self) -> Any:
        """ASGI's `receive`. Closes the connection if the body comes too slowly: no answer would be read."""
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + BODY_SECONDS
        deadline = self._deadline + self._received / BODY_BYTES_PER_SECOND if self.more_body else None
        try:
            async with asyncio.timeout_at(deadline):
                message: Any = await super().receive()
        except TimeoutError:
            if self.more_body:
                self.disconnected = True
                self.transport.abort()
                return {"type": "http.disconnect"}
            message = await super().receive()
        self._received += len(message.get("body", b""))
        return message

    async def send(self, message: Any) -> None:
        """ASGI's `send`."""
        if message["type"] == "http.response.start" and not self.response_started:
            headers = list(message.get("headers", ()))
            names = {name.lower() for name, _ in headers}
            if self.scope["http_version"] == "1.0" and not names & {b"content-length", b"transfer-encoding"}:
                self.chunked_encoding, self._ends_with_connection = False, True
            if self.more_body and not self.disconnected:
                headers = [header for header in headers if header[0].lower() != b"connection"] + [CLOSE_HEADER]
                message["headers"] = headers
                await super().send(message)
                self.keep_alive = self.lingers = True  # `Connection` closes it, after a while
                return
        elif message["type"] == "http.response.body" and self._ends_with_connection:
            self.expected_content_length = 0 if self.scope["method"] == "HEAD" else len(message.get("body", b""))
        await super().send(message)
