"""Hosts and ports, of IPv4 and IPv6: the only place that joins them to addresses, and knows which of them mean what."""

import ipaddress
import socket
from functools import cache

ALL = "*"
"""Listen on all addresses of this machine: of IPv6 and IPv4 if it has both."""


def plain_host(host: str) -> str:
    """A host without the brackets in which addresses and URLs put one of IPv6."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def host_port(host: str, port: int) -> str:
    """`host:port`, or `[host]:port` for an address of IPv6."""
    host = plain_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tcp_address(host: str, port: int) -> str:
    """The address of a ZeroMQ socket to connect to, or to listen on.

    `localhost` is the address that all use by default: ZeroMQ takes only the first one that a name has.
    """
    if host == ALL:
        host = wildcard()
    elif is_local_name(host):
        host = loopback()
    return f"tcp://{host_port(host, port)}"


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine reach a socket that listens on `host`."""
    host = plain_host(host)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return is_local_name(host)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def is_local_name(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


def reachable(host: str) -> str:
    """The address at which this machine's own processes reach a socket that listens on `host`."""
    return loopback() if plain_host(host) in (ALL, "0.0.0.0", "::") else host


def wildcard() -> str:
    """The address that means all of them. A socket on `::` takes connections of IPv4 too."""
    return "::" if has_ipv6() else "0.0.0.0"


@cache
def has_ipv6() -> bool:
    """Whether sockets of IPv6 can be made, and can serve IPv4 as well."""
    return socket.has_dualstack_ipv6()


@cache
def loopback() -> str:
    """The address by which processes of this machine reach each other: 127.0.0.1, or ::1 where that does not exist."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError:
            return "::1"
    return "127.0.0.1"
