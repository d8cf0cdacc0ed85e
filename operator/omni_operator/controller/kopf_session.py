"""How kopf reaches the API server: the way that our own requests take, with watches that go on after every error.

Where a watch is told that its version has expired, kopf lists all pipelines and watches from there. It takes any other
error in a watch as a reason to end the process. So every error is passed to it as that one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import kopf
import msgspec

from omni_operator.kube.connection import Connection

Send = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
GONE = 410
EXPIRED = b'{"type":"ERROR","object":{"kind":"Status","status":"Failure","reason":"Expired","code":410}}\n'


def kopf_session(connection: Connection) -> kopf.AiohttpSession:
    """kopf's credentials. It closes the session, and asks for another one after a 401. Needs a running event loop.

    The TLS settings are the connection's: kopf's own would lack the name that a kubeconfig gives the server.
    """
    return kopf.AiohttpSession(
        server=connection.url,
        aiohttp_session=aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=connection.tls_context()),
            headers=connection.credentials(),
            proxy=connection.proxy,
            middlewares=[with_lasting_watches],
        ),
    )


async def with_lasting_watches(request: aiohttp.ClientRequest, send: Send) -> aiohttp.ClientResponse:
    """The response to a request. That to a watch is a stream whose only error is an expired version."""
    response = await send(request)
    if "watch" in request.url.query and (response.ok or response.status == GONE):
        response.content = WatchContent(response.content, is_expired=not response.ok)  # type: ignore[assignment]
        response.status = 200
    return response


class Event(msgspec.Struct):
    """A line of a watch, as far as it matters here."""

    type: str = ""


class WatchContent:
    """The content of a watch's response, of which kopf reads the chunks."""

    def __init__(self, content: aiohttp.StreamReader, is_expired: bool) -> None:
        self._content, self._is_expired = content, is_expired

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """The lines, up to the first error."""
        rest = b""
        async for chunk in self._content.iter_chunked(size):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if self._is_expired or is_error(line):
                    break
                yield line + b"\n"
            else:
                continue
            break
        else:
            if not self._is_expired:
                return
        yield EXPIRED


def is_error(line: bytes) -> bool:
    """Whether a line of a watch is an error. One that is cut off is none: the connection has broken."""
    try:
        return msgspec.json.decode(line, type=Event).type == "ERROR"
    except msgspec.MsgspecError:
        return False
