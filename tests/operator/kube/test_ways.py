"""Every client reaches the API server, and a pipeline behind it, as the kubeconfig says: tls-server-name, proxy-url."""

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from omni_operator.client.endpoint import Endpoint
from omni_operator.controller.heads.head_api import read_topology
from omni_operator.controller.kopf_session import kopf_session
from omni_operator.crd.parsing import parse
from omni_operator.kube.client import Cluster
from tests.loopback import QuietHandler
from tests.worker.certificates import certificate


class Answer(QuietHandler):
    def do_GET(self) -> None:
        content = json.dumps({"requests": 0, "stages": []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class ConnectProxy:
    """A proxy that forwards every CONNECT to one port of this machine. `requests`: method and target of each."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        self.requests.append(head.decode().partition(" HTTP/1.")[0])
        server = socket.create_connection(("127.0.0.1", self._port))
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=pump, args=(client, server), daemon=True).start()
        pump(server, client)


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Server(NamedTuple):
    """A server whose certificate is for `localhost` alone, and a proxy that leads to it."""

    port: int
    authority: Path
    proxy: ConnectProxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    chain, key = certificate(tmp_path_factory.mktemp("tls"), "api")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    http.daemon_threads = True
    http.socket = context.wrap_socket(http.socket, server_side=True)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    proxy = ConnectProxy(http.server_port)
    yield Server(http.server_port, chain, proxy)
    proxy.close()
    http.shutdown()
    http.server_close()


def read_directly(cluster: Cluster) -> None:
    assert "stages" in cluster.connection.send_json("GET", "/version")


def endpoint(cluster: Cluster) -> Endpoint:
    proxy = cluster.service("default", "digits", "http")
    return Endpoint(proxy.url, "digits", proxy.context, dict(proxy.headers), proxy.proxy)


def read_with_the_commands_client(cluster: Cluster) -> None:
    with endpoint(cluster).client() as client:
        assert client.get("/v1/omni/topology").json()["stages"] == []


def read_with_the_benchs_client(cluster: Cluster) -> None:
    async def read() -> None:
        async with httpx.AsyncClient(**endpoint(cluster).connection) as client:
            assert (await client.get("/v1/models")).json()["stages"] == []

    asyncio.run(read())


def read_a_heads_topology(cluster: Cluster) -> None:
    stages = [{"name": "painter", "engine": "diffusion"}]
    manifest: dict[str, Any] = {
        "apiVersion": "omnipipeline.dev/v1alpha1",
        "kind": "OmniPipeline",
        "metadata": {"name": "digits", "namespace": "default"},
        "spec": {"model": {"source": "builtin://digits"}, "stages": stages},
    }
    assert read_topology(cluster, parse(manifest)).stages == ()


def read_as_kopf_does(cluster: Cluster) -> None:
    async def read() -> None:
        info = kopf_session(cluster.connection)
        async with info.aiohttp_session as session, session.get(f"{info.server}/apis") as response:
            assert response.status == 200

    asyncio.run(read())


CLIENTS = [
    read_directly,
    read_with_the_commands_client,
    read_with_the_benchs_client,
    read_a_heads_topology,
    read_as_kopf_does,
]


@pytest.mark.parametrize("read", CLIENTS)
@pytest.mark.parametrize("is_proxied", [False, True])
@pytest.mark.parametrize("is_named", [False, True])
def test_every_client_goes_the_way_of_the_kubeconfig(
    server: Server, tmp_path: Path, read: Callable[[Cluster], None], is_named: bool, is_proxied: bool
) -> None:
    address = f"127.0.0.1:{server.port}" if is_named else f"localhost:{server.port}"
    cluster = {"server": f"https://{address}", "certificate-authority": str(server.authority)}
    if is_named:
        cluster["tls-server-name"] = "localhost"
    if is_proxied:
        cluster["proxy-url"] = server.proxy.url
    content = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
    }
    (tmp_path / "config").write_text(json.dumps(content))
    server.proxy.requests.clear()
    read(Cluster(kubeconfig=str(tmp_path / "config")))
    assert server.proxy.requests == ([f"CONNECT {address}"] if is_proxied else [])


def test_without_the_name_the_certificate_is_refused(server: Server, tmp_path: Path) -> None:
    content = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "clusters": [
            {
                "name": "c",
                "cluster": {
                    "server": f"https://127.0.0.1:{server.port}",
                    "certificate-authority": str(server.authority),
                },
            }
        ],
    }
    (tmp_path / "config").write_text(json.dumps(content))
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        read_with_the_commands_client(Cluster(kubeconfig=str(tmp_path / "config")))
