"""ZeroMQ sockets as this project uses them: a dead peer is noticed in seconds, and nothing is queued without bound."""

import socket
from typing import Any

import zmq
import zmq.asyncio

HEARTBEAT_MS = 2_000
SILENCE_MS = 6_000
QUEUED_MESSAGES = 10_000


def make_socket(context: zmq.asyncio.Context, kind: int) -> Any:
    """A socket of `kind` with keep-alive on the wire and prompt reconnection."""
    made = context.socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.SNDHWM, QUEUED_MESSAGES)
    made.setsockopt(zmq.RCVHWM, QUEUED_MESSAGES)
    made.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    made.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
    made.setsockopt(zmq.HEARTBEAT_TTL, SILENCE_MS)
    made.setsockopt(zmq.RECONNECT_IVL, 50)
    made.setsockopt(zmq.RECONNECT_IVL_MAX, 1_000)
    if kind == zmq.ROUTER:
        made.setsockopt(zmq.ROUTER_HANDOVER, 1)
    return made


def own_address_towards(host: str, port: int) -> str:
    """The local address that the kernel would use to reach `host`: by a UDP connect, which sends nothing.

    Raises OSError where there is no route, or the name is not known.
    """
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])
