"""Addresses of IPv4 and IPv6: how they are written, what they mean, and who reaches a socket on all of them."""

import socket

import pytest
import zmq

from omni_worker import addresses
from omni_worker.addresses import ALL, host_port, is_loopback, loopback, reachable, tcp_address, wildcard
from omni_worker.api.http.server import bind
from omni_worker.transport.sockets import make_socket


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("digits-head.default.svc", "digits-head.default.svc:9000"),
        ("10.0.0.7", "10.0.0.7:9000"),
        ("::1", "[::1]:9000"),
        ("[fd00::7]", "[fd00::7]:9000"),
        ("fe80::1%eth0", "[fe80::1%eth0]:9000"),
    ],
)
def test_a_host_of_ipv6_is_written_in_brackets(host: str, written: str) -> None:
    assert host_port(host, 9000) == written
    assert tcp_address(host, 9000) == f"tcp://{written}"


LOOPBACK = ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "::ffff:127.0.0.1", "localhost", "a.localhost"]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert reachable(host) == host


@pytest.mark.parametrize("host", [ALL, "0.0.0.0", "::", "[::]"])
def test_a_socket_on_all_addresses_is_reached_on_loopback(host: str) -> None:
    assert not is_loopback(host)
    assert reachable(host) == loopback()


@pytest.fixture(params=[True, False], ids=["IPv4 and IPv6", "IPv4 alone"])
def families(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The loopback addresses by which a socket on all addresses must be reached."""
    if request.param and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    if not request.param:
        monkeypatch.setattr(addresses, "has_ipv6", lambda: False)
        assert wildcard() == "0.0.0.0"
    return ["127.0.0.1", "::1"] if request.param else ["127.0.0.1"]


def test_http_listens_on_all_addresses(families: list[str]) -> None:
    with bind(ALL, 0) as listener:
        for host in families:
            socket.create_connection((host, listener.getsockname()[1]), timeout=10).close()


@pytest.mark.parametrize("listen", [ALL, "::1", "[::1]", "127.0.0.1", "localhost"])
def test_zmq_listens_on_all_addresses_and_on_one(families: list[str], listen: str) -> None:
    if ":" in listen and "::1" not in families:
        pytest.skip("without IPv6")
    with zmq.Context() as context, make_socket(context, zmq.ROUTER) as server:
        server.bind(tcp_address(listen, 0).removesuffix("0") + "*")
        port = int(server.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        names = {ALL: families, "localhost": ["localhost", loopback()], loopback(): [listen, "localhost"]}
        for host in names.get(listen, [listen]):
            with make_socket(context, zmq.DEALER) as client:
                client.connect(tcp_address(host, port))
                client.send(b"hello")
                assert server.poll(10_000)
                assert server.recv_multipart()[1] == b"hello"
