"""A server in this process, and clients that write bytes to it."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from omni_worker.api.http.server import HttpServer
from tests.worker.serving import free_ports

GENEROUS = 60.0
"""Seconds until a client gives up waiting: longer than every deadline that a test sets."""
LARGE = 64 << 20


async def echo(request: Request) -> Response:
    """The body."""
    return Response(await request.body())


async def hello(request: Request) -> Response:
    """A text."""
    return PlainTextResponse("hello")


async def large(request: Request) -> Response:
    """Far more than the buffers of a connection."""
    return Response(bytes(LARGE))


async def headers(request: Request) -> Response:
    """The names of its headers."""
    await request.body()
    return PlainTextResponse(" ".join(request.headers))


async def pieces(request: Request) -> Response:
    """A body of unknown length."""

    async def body() -> Any:
        for part in ("first ", "second"):
            yield part

    return StreamingResponse(body(), media_type="text/plain")


APP = Starlette(
    routes=[
        Route("/echo", echo, methods=["POST"]),
        Route("/hello", hello),
        Route("/large", large),
        Route("/headers", headers, methods=["POST"]),
        Route("/pieces", pieces),
    ]
)


@dataclass(frozen=True)
class Server:
    """A server and its port."""

    http: HttpServer
    port: int

    def connect(self) -> socket.socket:
        """A new connection."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.settimeout(GENEROUS)
        return connection

    def exchange(self, data: bytes) -> bytes:
        """All that the server answers to `data`, until it closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)


@contextlib.contextmanager
def serving(app: Any = APP) -> Iterator[Server]:
    """Serve `app` in a thread."""
    (port,) = free_ports(1)
    started, loops = threading.Event(), []
    servers: list[HttpServer] = []

    async def run() -> None:
        servers.append(HttpServer(app, "127.0.0.1", port, 1.0))
        loops.append(asyncio.get_running_loop())
        started.set()
        await servers[0].run()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert started.wait(GENEROUS)
    try:
        yield Server(servers[0], port)
    finally:
        servers[0].drain()
        thread.join(GENEROUS)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


def read_response(connection: socket.socket) -> bytes:
    """One response with a Content-Length, headers and body."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.recv(65536)
        assert data, received
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    while len(body) < int(lengths[0]):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def status(answer: bytes) -> int:
    """The status code of a response."""
    return int(answer.split(b" ", 2)[1])
