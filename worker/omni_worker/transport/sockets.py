"""ZeroMQ sockets as this project uses them: a dead peer is noticed in seconds, and nothing is queued without bound."""

import resource
import socket
from typing import Any

import zmq
import zmq.asyncio

from omni_worker.transport.keys import CurveKeys

HEARTBEAT_MS = 2_000
SILENCE_MS = 6_000
KEEPALIVE_SECONDS = 15
QUEUED_MESSAGES = 10_000
QUEUED_DATA_MESSAGES = 64  # where a message may be large
LARGEST_MESSAGE = 2**30
LARGEST_CONTROL_MESSAGE = 2**20
SERVERS = frozenset({zmq.ROUTER, zmq.XPUB})


def make_socket(
    context: zmq.Context[Any],
    kind: int,
    keys: CurveKeys | None = None,
    *,
    largest: int = LARGEST_MESSAGE,
    queued: int = QUEUED_MESSAGES,
    reconnect_ms: int = 1_000,
    pings: bool = True,
) -> Any:
    """A socket of `kind` with keep-alive on the wire and prompt reconnection; ROUTER and XPUB are servers.

    With `keys` it speaks only with those who have the same. Whoever sends a frame of more than `largest` bytes is
    disconnected. Each connection holds at most `queued` messages in each direction. A client that has lost its server
    tries again within `reconnect_ms`.

    Only clients send pings, and with each how long the server is to wait for the next: so both notice the other's end.
    Without `pings`, where both ends hear of each other anyway, a server learns from the kernel which connections are
    dead, in about a minute.
    """
    made = context.socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.SNDHWM, queued)
    made.setsockopt(zmq.RCVHWM, queued)
    made.setsockopt(zmq.MAXMSGSIZE, largest)
    made.setsockopt(zmq.TCP_KEEPALIVE, 1)
    made.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_SECONDS)
    made.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_SECONDS)
    made.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    if kind not in SERVERS and pings:
        made.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        made.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
        made.setsockopt(zmq.HEARTBEAT_TTL, SILENCE_MS)
    if kind not in SERVERS:
        made.setsockopt(zmq.RECONNECT_IVL, min(50, reconnect_ms))
        made.setsockopt(zmq.RECONNECT_IVL_MAX, reconnect_ms)
    if kind == zmq.ROUTER:
        made.setsockopt(zmq.ROUTER_HANDOVER, 1)
    if keys is not None:
        keys.protect(made, is_server=kind in SERVERS)
    return made


def allow_many() -> None:
    """Let this process have as many sockets and files as it may: a head needs four for each replica. Before the first.

    ZeroMQ itself would stop at a thousand sockets, and many systems do at a thousand files.
    """
    context = zmq.asyncio.Context.instance()
    context.set(zmq.MAX_SOCKETS, context.get(zmq.SOCKET_LIMIT))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def own_address_towards(host: str, port: int) -> str:
    """The local address that the kernel would use to reach `host`: by a UDP connect, which sends nothing.

    Raises OSError where there is no route, or the name is not known.
    """
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])
