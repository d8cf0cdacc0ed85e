"""What the operator does with an answer of the API server, here a server of the test's own."""

import logging
import socket
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest
from kubernetes.client import Configuration

from omni_operator.controller import kopf_wiring
from omni_operator.kube import client as client_module
from omni_operator.kube import connection as connection_module
from omni_operator.kube.client import WATCH_SECONDS, WATCH_SILENCE_SECONDS, Cluster
from omni_operator.kube.connection import Connection
from omni_operator.kube.errors import Unreachable
from omni_operator.kube.resources import LEASES, PODS
from tests.loopback import Loopback, QuietHandler

DEPRECATED = "policy/v1beta1 PodDisruptionBudget is deprecated in v1.21+, unavailable in v1.25+"


PAGE = b"<html>502 Bad Gateway</html>"
# What a proxy, a captive portal or a broken load balancer answers with status 200, though it is not the API server.
STRANGE = {
    "a page": PAGE,
    "nothing": b"",
    "half": b'{"items": [',
    "text": b'"ok"',
    "null": b"null",
    "a list": b"[]",
    "a number": b"1",
    "bytes": b"\xff\xfe\x00",
    "nesting": b"[" * 100_000,
}


class Warning(QuietHandler):
    answers: ClassVar[list[bytes]] = []
    """What to answer first, each once; then, and without them, an empty object."""

    def do_GET(self) -> None:
        if self.answers:
            content = self.answers.pop(0)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        self.send_response(200)
        self.send_header("Content-Length", "2")
        if self.path == "/deprecated":
            self.send_header("Warning", f'299 - "{DEPRECATED}"')
            self.send_header("Warning", r'299 - "unknown field \"spec.imagePullSecret\", a \\ b"')
        self.end_headers()
        self.wfile.write(b"{}")


@pytest.fixture
def connection() -> Iterator[Connection]:
    server = Loopback(Warning)
    configuration = Configuration()
    configuration.host = server.url
    yield Connection(configuration, connections=1)
    server.close()
    Warning.answers = []


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "FIRST_DELAY_SECONDS", 0.001)


def test_a_warning_of_the_server_is_logged_once(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/deprecated", "/deprecated", "/other"):
        assert connection.send_json("GET", path) == {}
    assert [(each.levelno, each.getMessage()) for each in caplog.records if "warns" in each.getMessage()] == [
        (logging.WARNING, f"the API server warns of GET /deprecated: {DEPRECATED}"),
        (logging.WARNING, 'the API server warns of GET /deprecated: unknown field "spec.imagePullSecret", a \\ b'),
    ]


@pytest.mark.parametrize("row", STRANGE)
def test_an_answer_that_no_api_server_sends_is_retried_and_then_an_error(connection: Connection, row: str) -> None:
    Warning.answers = [STRANGE[row]] * 3
    assert connection.send_json("GET", "/x") == {}
    Warning.answers = [STRANGE[row]] * 10
    with pytest.raises(Unreachable, match="GET /x was answered with"):
        connection.send_json("GET", "/x")
    assert len(Warning.answers) == 10 - connection_module.ATTEMPTS


@pytest.fixture
def cluster(connection: Connection) -> Cluster:
    found = Cluster.__new__(Cluster)
    found.connection, found.may_write = connection, lambda namespace: True
    return found


@pytest.mark.parametrize("content", [b"{}", b'{"status": "ok"}', b'{"metadata": null}', b'{"metadata": []}', PAGE])
def test_an_answer_that_is_no_object_of_kubernetes_is_an_error_of_every_verb(cluster: Cluster, content: bytes) -> None:
    def strange() -> None:
        Warning.answers = [content] * connection_module.ATTEMPTS

    for call in (
        lambda: cluster.get(LEASES, "a", "b"),
        lambda: cluster.list_objects(LEASES, None, "", "metadata.name=b"),
        lambda: list(cluster.pages(PODS, None)),
        lambda: next(cluster.watch(PODS, "a", "", "1")) if content == PAGE else cluster.get(PODS, "a", "b"),
    ):
        strange()
        with pytest.raises(Unreachable):
            call()


@pytest.mark.parametrize("items", ["", ', "items": {}', ', "items": "x"'])
def test_a_list_without_items_is_not_an_empty_list(cluster: Cluster, items: str) -> None:
    """Otherwise the cache would drop every object."""
    Warning.answers = [f'{{"metadata": {{}}{items}}}'.encode()]
    with pytest.raises(Unreachable, match="not a list"):
        list(cluster.pages(PODS, None))


@pytest.mark.parametrize("items", ["null", "[]"])
def test_a_list_of_nothing_is_empty(cluster: Cluster, items: str) -> None:
    Warning.answers = [f'{{"metadata": {{"resourceVersion": "7"}}, "items": {items}}}'.encode()]
    assert list(cluster.pages(PODS, None)) == [([], "7")]


# ---- dead connections


@pytest.fixture
def frozen() -> Iterator[str]:
    """The URL of a server whose kernel accepts every connection, and that never sends anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_watch_on_a_connection_that_died_is_broken_when_it_was_silent_for_too_long(
    frozen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "WATCH_SILENCE_SECONDS", 0.2)
    configuration = Configuration()
    configuration.host = frozen
    cluster = Cluster.__new__(Cluster)
    cluster.connection = Connection(configuration, 1)
    with pytest.raises(Unreachable):
        next(cluster.watch(PODS, None, "", "1"))


class Stalling(QuietHandler):
    """Sends one event, and then nothing."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        event = b'{"type": "BOOKMARK"}\n'
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.flush()
        released.wait(60)


released = threading.Event()


def test_so_is_one_that_dies_after_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "WATCH_SILENCE_SECONDS", 2.0)
    server = Loopback(Stalling)
    configuration = Configuration()
    configuration.host = server.url
    cluster = Cluster.__new__(Cluster)
    cluster.connection = Connection(configuration, 1)
    events = cluster.watch(PODS, None, "", "1")
    try:
        assert next(events) == {"type": "BOOKMARK"}
        with pytest.raises(Unreachable, match=r"the watch of .* broke"):
            next(events)
    finally:
        released.set()
        server.close()


def test_both_kinds_of_watches_end_before_they_count_as_broken_and_that_within_a_minute() -> None:
    watching = kopf_wiring.settings().watching
    assert WATCH_SECONDS < WATCH_SILENCE_SECONDS <= 60
    assert (watching.server_timeout, watching.inactivity_timeout) == (WATCH_SECONDS, WATCH_SILENCE_SECONDS)
    assert kopf_wiring.settings().networking.request_timeout <= 60
