"""ZeroMQ sockets with this project's settings: they notice a dead peer in seconds, and their queues are bounded."""

import resource
import socket
from typing import Any

import zmq
import zmq.asyncio

from omni_worker.addresses import has_ipv6
from omni_worker.transport.keys import CurveKeys

HEARTBEAT_MS = 2_000
SILENCE_MS = 6_000
DATA_SILENCE_MS = 20_000
"""For sockets whose frames may be large: a peer that sends one counts as silent until its last byte has come, and one
core encrypts about 150 MB a second."""
KEEPALIVE_SECONDS = 15
QUEUED_MESSAGES = 10_000
QUEUED_DATA_MESSAGES = 64  # for sockets whose messages may be large
MAX_MESSAGE_BYTES = 2**30
MAX_RESULT_BYTES = 2**32
"""The most that one result may have. A replica answers with an error instead of a larger one."""
MAX_CONTROL_MESSAGE_BYTES = 2**20
SERVERS = frozenset({zmq.ROUTER, zmq.XPUB})


def make_socket(
    context: zmq.Context[Any],
    kind: int,
    keys: CurveKeys | None = None,
    *,
    max_bytes: int = MAX_MESSAGE_BYTES,
    queued: int = QUEUED_MESSAGES,
    reconnect_ms: int = 1_000,
    pings: bool = True,
    silence_ms: int = SILENCE_MS,
) -> Any:
    """Create a socket of `kind`. ROUTER and XPUB sockets are servers, all others clients.

    keys: if given, the socket connects only to processes with the same keys
    max_bytes: a peer that sends a larger frame is disconnected
    queued: how many messages each connection queues in each direction
    reconnect_ms: the longest pause before a client connects again to a server that it lost
    pings: whether a client pings the server, and asks it to expect the next ping; then each end notices in seconds if
        the other is gone. Turn it off if both ends exchange messages anyway: TCP keep-alive still closes a dead
        connection after about a minute.
    silence_ms: after how long a client takes a server for gone that sends nothing, nor answers pings
    """
    result = context.socket(kind)
    result.setsockopt(zmq.LINGER, 0)
    result.setsockopt(zmq.IPV6, has_ipv6())  # IPv4 works as well
    result.setsockopt(zmq.SNDHWM, queued)
    result.setsockopt(zmq.RCVHWM, queued)
    result.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    result.setsockopt(zmq.TCP_KEEPALIVE, 1)
    result.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_SECONDS)
    result.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_SECONDS)
    result.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    if kind not in SERVERS and pings:
        result.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        result.setsockopt(zmq.HEARTBEAT_TIMEOUT, silence_ms)
        result.setsockopt(zmq.HEARTBEAT_TTL, silence_ms)
    if kind not in SERVERS:
        result.setsockopt(zmq.RECONNECT_IVL, min(50, reconnect_ms))
        result.setsockopt(zmq.RECONNECT_IVL_MAX, reconnect_ms)
    if kind == zmq.ROUTER:
        result.setsockopt(zmq.ROUTER_HANDOVER, 1)
    if keys is not None:
        keys.protect(result, is_server=kind in SERVERS)
    return result


def raise_socket_limits() -> None:
    """Raise the limits on sockets and open files to their maximum. Call it before the first socket is created.

    A head needs four for each replica. The default limits are about a thousand sockets in ZeroMQ, and a thousand files
    in many systems.
    """
    context = zmq.asyncio.Context.instance()
    context.set(zmq.MAX_SOCKETS, context.get(zmq.SOCKET_LIMIT))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def local_address_towards(host: str, port: int) -> str:
    """The local address that the kernel would use to reach `host`. A UDP connect finds it without sending anything.

    Raises OSError if there is no route, or if the name cannot be resolved.
    """
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])
