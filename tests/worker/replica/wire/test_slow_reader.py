"""If an HTTP client does not read its stream, head and replica keep no more than one copy of the answer."""

import asyncio
import json
import socket

from prometheus_client import CollectorRegistry

from omni_worker.api.app import create_app
from omni_worker.api.http.server import HttpServer
from omni_worker.config.records import Stage
from omni_worker.orchestrator.balancers import make_balancer
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.orchestrator.stage_pool import StagePool
from omni_worker.telemetry.metrics import HeadMetrics
from tests.worker.orchestrator import pools
from tests.worker.replica.data_connection import eventually, serving
from tests.worker.serving import free_ports

PIECES = 5_000
TEXT = "".join(f"{number:02000d}" for number in range(PIECES))


async def opened(port):
    """Open a stream with 10 MB of text, without reading it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    body = {"stream": True, "messages": [{"role": "user", "content": f"tell {PIECES}"}]}
    data = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\n"
    await loop.sock_sendall(client, f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return client


async def read(client):
    """Read the stream to its end, and return the choices of its events."""
    loop, received = asyncio.get_running_loop(), bytearray()
    while chunk := await asyncio.wait_for(loop.sock_recv(client, 1 << 20), 20):
        received += chunk
    events = [line[6:] for line in received.decode().splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [json.loads(event)["choices"][0] for event in events]


def test_what_a_client_does_not_read_is_kept_as_one_piece_and_other_clients_are_served():
    async def body():
        async with serving() as (replica, data_port, _):
            pool = StagePool(Stage(0, "writer", "autoregressive"), make_balancer("round-robin"), lambda key, uid: None)
            fake = pools.replica()
            fields = {name: getattr(fake, name) for name in fake.__struct_fields__}
            pool.update(type(fake)(**fields | {"address": f"tcp://127.0.0.1:{data_port}"}))
            orchestrator = Orchestrator([pool], HeadMetrics(CollectorRegistry()))
            (port,) = free_ports(1)
            http = HttpServer(create_app(orchestrator, "m", []), "127.0.0.1", port, 5)
            running = asyncio.create_task(http.run())
            slow = await opened(port)
            await eventually(lambda: orchestrator.running)
            quick = await opened(port)
            choices = await read(quick)
            assert "".join(choice["delta"].get("content", "") for choice in choices) == TEXT
            await eventually(lambda: not orchestrator.running, 20)
            assert not any(peer.has_messages for peer in replica._outgoing._peers.values())
            choices = await read(slow)
            assert "".join(choice["delta"].get("content", "") for choice in choices) == TEXT
            assert len(choices) < PIECES / 10
            for client in (slow, quick):
                client.close()
            http.drain()
            await running
            await pool.close()

    asyncio.run(asyncio.wait_for(body(), 90))
