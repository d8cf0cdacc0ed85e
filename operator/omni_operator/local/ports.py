"""Free TCP ports of this machine."""

import secrets
import socket

from omni_operator.local.errors import LocalFailure
from omni_operator.planning.topology.records import LOOPBACK

# Below the range of outgoing connections on Linux, so that none of those takes a port before a process binds it.
PORT_RANGE = (20000, 32000)
ATTEMPTS = 1000


def require_free_port(port: int) -> None:
    """Raise LocalFailure if another program on this machine uses the port."""
    if not is_port_free(port):
        raise LocalFailure(
            f"port {port} is in use by another program on this machine; stop that one, or choose another with --port"
        )


def is_port_free(port: int) -> bool:
    """Whether a server can bind the port, on the loopback interface and on all interfaces."""
    for host in (LOOPBACK, "0.0.0.0"):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


class FreePorts:
    """Chooses ports that are free now. It never returns a port twice, and never returns `reserved`."""

    def __init__(self, reserved: int = 0) -> None:
        self._used = {reserved}

    def __call__(self, count: int) -> int:
        """The first of `count` consecutive free ports. Raises LocalFailure if it finds none."""
        for _ in range(ATTEMPTS):
            first = secrets.choice(range(*PORT_RANGE))
            ports = range(first, first + count)
            if not self._used.intersection(ports) and all(map(is_port_free, ports)):
                self._used.update(ports)
                return first
        raise LocalFailure(f"no {count} consecutive free ports between {PORT_RANGE[0]} and {PORT_RANGE[1]}")
