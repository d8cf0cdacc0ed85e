"""HTTP to a stage's server: only its URL, no redirects, bounded responses. Every error is an EndpointFailure."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import httpx

from omni_worker.config.endpoint import Endpoint
from omni_worker.endpoint.failures import EndpointFailure, from_status, shown
from omni_worker.errors import UsageError

CONNECT_SECONDS = 10.0
MAX_CONNECTIONS, MAX_IDLE_CONNECTIONS = 512, 32
IDLE_SECONDS = 4.0
"""How long a connection is kept for the next request: servers of uvicorn, like vLLM, close it after 5."""
MAX_ERROR_BYTES = 64 * 1024
MAX_LINE_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
END_SECONDS = 1.0
PREFIX, END = b"data:", b"[DONE]"
EVENT_STREAM = "text/event-stream"


class EndpointHttp:
    """The connections to one server. Proxies are those that the environment names; none for a server on loopback."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises UsageError if the environment names a proxy that cannot be used."""
        self._endpoint = endpoint
        try:
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
                limits=httpx.Limits(
                    max_connections=MAX_CONNECTIONS,
                    max_keepalive_connections=MAX_IDLE_CONNECTIONS,
                    keepalive_expiry=IDLE_SECONDS,
                ),
                trust_env=not endpoint.is_local,
                follow_redirects=False,
                # What is compressed may be a thousand times as long as it seems.
                headers={"Accept-Encoding": "identity"},
            )
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"the proxies of the environment cannot be used to reach {endpoint.url}: {error}; set HTTP_PROXY and"
                " HTTPS_PROXY to an HTTP proxy like http://HOST:3128, or name the host in NO_PROXY"
            ) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def get(self, path: str, max_bytes: int) -> bytes:
        """The body of a GET response with status 200. Raises EndpointFailure."""
        async with self._open("GET", path, {}) as response:
            return await _bounded_body(response, max_bytes)

    async def events(self, path: str, body: Any, headers: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """The data of each server-sent event that answers a POST with this JSON, until `[DONE]` or the end.

        Closing the iterator closes the connection. Raises EndpointFailure.
        """
        async with self._open("POST", path, {"Accept": EVENT_STREAM, **headers}, body) as response:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != EVENT_STREAM:
                said = shown((await _start_of(response)).decode(errors="replace"), self.key())
                raise EndpointFailure(
                    "failed", f"answered with {shown(kind) or 'no content type'}, expected a stream of events: {said}"
                )
            lines = _lines(response)
            async for line in lines:
                if line.startswith(PREFIX):
                    data = line[len(PREFIX) :].strip()
                    if data == END:
                        break
                    yield data
            # To its end, so that the connection can serve another request.
            with contextlib.suppress(TimeoutError, httpx.HTTPError, EndpointFailure):
                async with asyncio.timeout(END_SECONDS):
                    async for _ in lines:
                        pass

    def key(self) -> str | None:
        """The server's key. Raises EndpointFailure if it cannot be read."""
        try:
            return self._endpoint.api_key()
        except ValueError as error:
            raise EndpointFailure("failed", f"cannot be asked: {error}") from None

    @contextlib.asynccontextmanager
    async def _open(
        self, method: str, path: str, headers: Mapping[str, str], body: Any = None
    ) -> AsyncIterator[httpx.Response]:
        """The response with status 200, of which the body is not read yet. Raises EndpointFailure, also below it."""
        key = self.key()
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        url = f"{self._endpoint.url.rstrip('/')}/{path}"
        try:
            async with self._client.stream(method, url, headers={**headers, **authorization}, json=body) as response:
                if response.status_code != 200:
                    said = await _start_of(response)
                    raise from_status(response.status_code, said, response.headers.get("retry-after"), key)
                if (coding := response.headers.get("content-encoding", "identity")) != "identity":
                    raise EndpointFailure("failed", f"answered with the content encoding {shown(coding)!r}, unasked")
                yield response
        except httpx.ConnectTimeout:
            raise _outage(f"cannot be reached within {CONNECT_SECONDS:g} s") from None
        except httpx.ConnectError as error:
            raise _outage(f"cannot be reached: {shown(str(error), key) or 'connection refused'}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = shown(str(error), key)
            raise _outage(f"closed the connection: {reason or type(error).__name__}") from None


def _outage(problem: str) -> EndpointFailure:
    return EndpointFailure("unavailable", problem, is_transient=True, is_outage=True)


async def _start_of(response: httpx.Response) -> bytes:
    """The first MAX_ERROR_BYTES of a body."""
    body = b""
    async for piece in response.aiter_raw():
        body += piece
        if len(body) >= MAX_ERROR_BYTES:
            break
    return body[:MAX_ERROR_BYTES]


async def _bounded_body(response: httpx.Response, most: int) -> bytes:
    """A whole body. Raises EndpointFailure if it is longer than `most` bytes."""
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > most:
            raise EndpointFailure("failed", f"answered with more than {most} bytes")
    return bytes(body)


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """The lines of a body. Raises EndpointFailure if a line, or all of them, are too long."""
    rest, size = bytearray(), 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise EndpointFailure("failed", f"wrote an answer of more than {MAX_ANSWER_BYTES} bytes")
        rest += piece
        if b"\n" in piece:
            *lines, last = rest.split(b"\n")
            rest = bytearray(last)
            for line in lines:
                yield bytes(line.rstrip(b"\r"))
        if len(rest) > MAX_LINE_BYTES:
            raise EndpointFailure("failed", f"sent a line of more than {MAX_LINE_BYTES} bytes")
    if rest:
        yield bytes(rest)
