"""A small HTTP server in process that answers as a test says, also in ways that no server should."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from omni_worker.config.endpoint import Endpoint
from omni_worker.endpoint.client import EndpointClient
from omni_worker.endpoint.http import EndpointHttp

OK_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
MODEL = "writer"


@dataclass
class Request:
    """What a client sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


Reply = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """`replies` answer one POST each, the last one all further ones; `models` answers GET /v1/models.

    is_left: is set when a client closes its connection before the reply is complete
    """

    replies: list[Reply]
    models: Reply
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    is_left: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def calls(self) -> list[Request]:
        """The POST requests."""
        return [request for request in self.requests if request.method == "POST"]

    async def has_got(self, count: int) -> None:
        """Wait for so many requests."""
        while len(self.requests) < count:
            self.arrived.clear()
            await self.arrived.wait()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await read_request(reader)
            self.requests.append(request)
            self.arrived.set()
            number = min(len(self.calls), len(self.replies)) - 1
            reply = self.models if request.method == "GET" else self.replies[number]
            replying = asyncio.ensure_future(reply(request, writer))
            leaving = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({replying, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not replying.done() or replying.exception() is not None:
                self.is_left.set()
            replying.cancel()
            leaving.cancel()
            await asyncio.gather(replying, leaving, return_exceptions=True)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, json.loads(body) if body else None)


@asynccontextmanager
async def serving(*replies: Reply, models: Reply | None = None) -> AsyncIterator[Server]:
    """A server with these replies, on a port of loopback."""
    server = Server(list(replies), models or as_json(200, {"data": [{"id": MODEL, "max_model_len": 4096}]}))
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    server.url = f"http://{host}:{port}/v1"
    try:
        yield server
    finally:
        listening.close()


@asynccontextmanager
async def client_of(server: Server, **settings: Any) -> AsyncIterator[EndpointClient]:
    """A client of the stage `rewriter` at this server."""
    endpoint = Endpoint(server.url, MODEL, **settings)
    client = EndpointClient("rewriter", endpoint, EndpointHttp(endpoint))
    try:
        yield client
    finally:
        await client.close()


def raw(data: bytes) -> Reply:
    """A reply of exactly these bytes."""

    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return reply


def as_json(status: int, body: Any, **headers: str) -> Reply:
    """A reply in JSON. Underscores in names of headers are dashes."""
    content = json.dumps(body).encode()
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    first = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n"
    head = f"{first}Content-Length: {len(content)}\r\n{lines}\r\n"
    return raw(head.encode() + content)


def chunk(text: str | None = None, finish_reason: str | None = None, **more: Any) -> bytes:
    """One event of a chat completion."""
    choice = {"index": 0, "delta": {"content": text} if text is not None else {}, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [choice | more]}).encode() + b"\n\n"


def stream_of(*texts: str, finish_reason: str = "stop", usage: tuple[int, int] | None = (5, 7)) -> bytes:
    """The bytes of a complete answer in these pieces."""
    counts = {"choices": [], "usage": dict(zip(("prompt_tokens", "completion_tokens"), usage or (), strict=False))}
    end = [b"data: " + json.dumps(counts).encode() + b"\n\n"] if usage else []
    return b"".join([OK_STREAM, *map(chunk, texts), chunk(None, finish_reason), *end, b"data: [DONE]\n\n"])


def answer(*texts: str, **more: Any) -> Reply:
    """A complete answer in these pieces."""
    return raw(stream_of(*texts, **more))


def endless(first: bytes, piece: bytes = b"") -> Reply:
    """A reply that begins with these bytes and never ends: with `piece` again and again, or with silence."""

    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0 if piece else 0.01)

    return reply
