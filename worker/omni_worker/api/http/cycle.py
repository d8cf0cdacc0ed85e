"""One request and its response on a connection, for clients that uvicorn's own class does not answer correctly."""

from typing import Any

from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Cycle(RequestResponseCycle):
    """One request and its response.

    A response that starts before the body is complete ends the connection, and one of unknown length to HTTP/1.0 is
    not chunked: it ends with the connection.
    """

    lingers = False
    _ends_with_connection = False

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
