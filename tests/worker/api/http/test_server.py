"""The HTTP server does not delay small responses."""

import asyncio
import http.client
import statistics
import time

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from omni_worker.api.http.server import HttpServer
from tests.worker.serving import free_ports


async def hello(request):
    return PlainTextResponse("hello")


def ask(port, count):
    """The seconds that each of `count` requests over one connection takes."""
    connection, took = http.client.HTTPConnection("127.0.0.1", port, timeout=10), []
    for _ in range(count):
        began = time.perf_counter()
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
        took.append(time.perf_counter() - began)
    connection.close()
    return took


def test_an_answer_over_a_connection_that_is_kept_does_not_wait_for_an_acknowledgement():
    async def body():
        (port,) = free_ports(1)
        server = HttpServer(Starlette(routes=[Route("/", hello)]), "127.0.0.1", port, 1.0)
        serving = asyncio.create_task(server.run())
        took = await asyncio.to_thread(ask, port, 40)
        server.drain()
        await serving
        return took

    assert statistics.median(asyncio.run(body())) < 0.02, "the kernel's delay is 0.04"
