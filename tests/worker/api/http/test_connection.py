"""Connections as real clients, proxies and attackers use them, with raw bytes against a server in this process."""

import asyncio
import contextlib
import socket
import time

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from omni_worker.api.http import connection
from tests.worker.serving import eventually

from .raw import LARGE, read_all, read_response, serving, status

CLOSE = b"Host: x\r\nConnection: close\r\n"
H2C = b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


@pytest.fixture
def short(monkeypatch):
    """Deadlines that end at once."""
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.3)


# ---- the offer of another protocol


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        pytest.param(b"Content-Length: 5\r\n", b"hello", id="length"),
        pytest.param(b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", id="chunked"),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_a_request_that_offers_http2_keeps_its_body(server, framing, body, piece):
    data = b"POST /echo HTTP/1.1\r\n" + H2C + framing + b"\r\n" + body
    with server.connect() as client:
        for _ in range(2):  # the connection stays open, and offers again
            for start in range(0, len(data), piece):
                client.sendall(data[start : start + piece])
            answer = read_response(client)
            assert status(answer) == 200
            assert answer.endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.0", b"h2c, websocket"])
def test_no_offer_is_accepted(server, upgrade):
    offer = b"Host: x\r\nConnection: keep-alive, upgrade, close\r\nUpgrade: " + upgrade + b"\r\n\r\n"
    answer = server.exchange(b"GET /hello HTTP/1.1\r\n" + offer)
    assert status(answer) == 200
    assert answer.endswith(b"hello"), "Connection: close is still respected"


def test_what_follows_an_offer_is_the_next_request(server):
    answer = server.exchange(
        b"GET /hello HTTP/1.1\r\n" + H2C + b"\r\nPOST /echo HTTP/1.1\r\n" + CLOSE + b"Content-Length: 2\r\n\r\nhi"
    )
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.endswith(b"hi")


def test_connect_is_refused(server):
    assert status(server.exchange(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")) == 405


# ---- headers


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET /hello HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", id="a long one"),
        pytest.param(b"GET /hello HTTP/1.1\r\nHost: x\r\n" + b"X: 1\r\n" * 300 + b"\r\n", id="many"),
        pytest.param(b"GET /hello?" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="a long target"),
        pytest.param(b"GET /hello HTTP/1.1\r\nHost: x\r\n" + (b"X: " + b"a" * 9_000 + b"\r\n") * 8 + b"\r\n", id="sum"),
    ],
)
def test_headers_beyond_the_limit_are_431(server, head):
    answer = server.exchange(head)
    assert status(answer) == 431
    assert b'"code": "headers_too_large"' in answer
    assert b"hello" not in answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("endless", [b"a" * 5000, b"a:\r\n" * 1000, b"X-Y: " + b"b" * 4000 + b"\r\n"])
def test_headers_without_an_end_are_cut_off_at_the_limit(server, endless):
    with server.connect() as client:
        client.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        try:
            for _ in range(10_000):  # 40 MB: the server takes only the first of it
                client.sendall(endless)
                sent += len(endless)
        except OSError:
            return
        assert status(read_all(client)) == 431


def test_trailers_are_no_headers_and_are_bounded(server):
    request = b"POST /headers HTTP/1.1\r\nHost: x\r\n%sTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n%s"
    answer = server.exchange(request % (b"Connection: close\r\n", b"Authorization: Bearer key\r\n\r\n"))
    assert status(answer) == 200
    assert b"authorization" not in answer
    with server.connect() as client:
        client.sendall(request % (b"", b"X: "))
        with contextlib.suppress(OSError):
            for _ in range(10_000):
                client.sendall(b"a" * 5000)
        assert read_all(client)[:12] in (b"", b"HTTP/1.1 431")


def test_a_body_whose_framing_is_wrong_is_400(server):
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for body in (b"nonsense\r\n", b"1\r\nx\r\nnonsense\r\n"):
        assert status(server.exchange(head + body)) == 400


def test_tiny_chunks_are_no_trailers(server):
    body = b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n"
    answer = server.exchange(b"POST /echo HTTP/1.1\r\n" + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert answer.endswith(b"x" * 50_000)


def test_headers_up_to_the_limit_are_accepted(server):
    head = b"GET /hello HTTP/1.1\r\n" + CLOSE + (b"X: " + b"a" * 10_000 + b"\r\n") * 6 + b"\r\n"
    assert status(server.exchange(head)) == 200


def test_a_large_body_is_no_header(server):
    body = b"a: b\r\n" * 100_000
    head = b"POST /echo HTTP/1.1\r\n" + CLOSE + b"Content-Length: %d\r\n\r\n" % len(body)
    assert server.exchange(head + body).endswith(body)


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET", b"GET /hello HTTP/1.1\r\nHost: x\r\n"])
def test_unfinished_headers_end_the_connection(server, short, sent):
    assert server.exchange(sent) == b""


def test_the_second_request_of_a_connection_has_a_deadline_too(server, short):
    with server.connect() as client:
        client.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status(read_response(client)) == 200
        client.sendall(b"GET /hel")
        assert read_all(client) == b""


def test_an_idle_connection_outlives_those_of_proxies():
    assert connection.KEEP_ALIVE_SECONDS > 65
    with serving() as server:
        assert server.http._config.timeout_keep_alive == connection.KEEP_ALIVE_SECONDS


def test_connections_beyond_the_limit_close_the_oldest_that_waits(monkeypatch):
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 3)
    with serving() as server:
        oldest, *others = [server.connect() for _ in range(3)]
        eventually(lambda: len(server.http._server.server_state.connections) == 3, "three connections")
        with server.connect() as latest:
            assert read_all(oldest) == b""
            for client in (*others, latest):
                client.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
                assert status(read_response(client)) == 200
        for client in (oldest, *others):
            client.close()


def test_requests_that_wait_behind_one_are_bounded(server):
    request = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = server.exchange(request * 10_000).count(b"HTTP/1.1 200")
    assert 1 < answers <= connection.MAX_PIPELINED + 2


# ---- bodies that the app does not read


def test_a_response_before_the_end_of_the_body_arrives_and_ends_the_connection(server, short):
    with server.connect() as client:
        client.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n")
        client.sendall(b"x" * 2_000_000)
        answer = read_all(client)
    assert status(answer) == 404
    assert b"connection: close" in answer


# ---- clients that read slowly, or nothing


def test_a_client_that_reads_nothing_is_disconnected_and_a_slow_one_is_not(monkeypatch):
    monkeypatch.setattr(connection, "READ_SECONDS", 1.0)
    request = b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with serving() as server, server.connect() as idle, server.connect() as slow:
        idle.sendall(request)
        slow.sendall(request)
        connections = server.http._server.server_state.connections
        received = len(slow.recv(1))
        while len(connections) == 2:
            received += len(slow.recv(1 << 18, socket.MSG_WAITALL))
            time.sleep(0.01)
        while data := slow.recv(1 << 20):
            received += len(data)
        assert received > LARGE


# ---- older versions, and requests that are not valid


def test_http_1_0_gets_no_chunks(server):
    head, _, body = server.exchange(b"GET /pieces HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body == b"first second"
    assert server.exchange(b"GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").endswith(b"hello")
    assert server.exchange(b"HEAD /pieces HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n")
    assert b"chunked" in server.exchange(b"GET /pieces HTTP/1.1\r\n" + CLOSE + b"\r\n")


@pytest.mark.parametrize(
    "request_head",
    [
        pytest.param(b"GET /hello HTTP/1.1\r\n\r\n", id="no Host"),
        pytest.param(b"GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two Hosts"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"GET /hell\xc3\xb6 HTTP/1.1\r\nHost: x\r\n\r\n", id="a target that is not ASCII"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", id="a negative length"),
        pytest.param(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", id="smuggling"
        ),
    ],
)
def test_invalid_requests_are_400(server, request_head):
    answer = server.exchange(request_head)
    assert status(answer) == 400
    assert b'"type": "invalid_request_error"' in answer


@pytest.mark.parametrize("line", [b"GET /hello\r\n\r\n", b"GET /hello HTTP/2.0\r\nHost: x\r\n\r\n"])
def test_other_versions_are_refused(server, line):
    assert status(server.exchange(line)) in (400, 505)


def test_the_target_may_be_a_whole_url(server):
    assert server.exchange(b"GET http://x/hello HTTP/1.1\r\n" + CLOSE + b"\r\n").endswith(b"hello")
    assert status(server.exchange(b"OPTIONS * HTTP/1.1\r\n" + CLOSE + b"\r\n")) in (400, 404)


def test_the_server_does_not_name_its_software(server):
    assert b"server:" not in server.exchange(b"GET /hello HTTP/1.1\r\n" + CLOSE + b"\r\n").lower()


# ---- half-closed connections


@pytest.mark.parametrize(
    "head", [b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /hello HTTP/1.0\r\n\r\n", b"GET /pieces HTTP/1.0\r\n\r\n"]
)
def test_a_client_that_sends_no_more_gets_its_response(server, head):
    with server.connect() as client:
        client.sendall(head)
        client.shutdown(socket.SHUT_WR)
        answer = read_all(client).removeprefix(connection.INTERIM)
    assert status(answer) == 200


def test_pipelined_requests_of_a_half_closed_connection_are_all_answered(server):
    with server.connect() as client:
        client.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).count(b"HTTP/1.1 200") == 3


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("how", ["closed", "half-closed, then closed", "half-closed, and closed later"])
def test_a_client_that_leaves_is_noticed_while_its_request_runs(version, how, monkeypatch):
    monkeypatch.setattr(connection, "PROBES", frozenset(range(100)))
    started, ended = asyncio.Event(), []

    async def work(request: Request) -> Response:
        await request.body()
        started.set()
        while not await request.is_disconnected():  # noqa: ASYNC110 - a route knows no event
            await asyncio.sleep(0.01)
        ended.append(True)
        return PlainTextResponse("late")

    with serving(Starlette(routes=[Route("/work", work, methods=["POST"])])) as server:
        client = server.connect()
        client.sendall(b"POST /work HTTP/" + version + b"\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        eventually(started.is_set, "the request")
        if how != "closed":
            client.shutdown(socket.SHUT_WR)
        if how == "half-closed, and closed later" and version == b"1.1":
            assert client.recv(len(connection.INTERIM)) == connection.INTERIM
            assert not ended
        client.close()
        eventually(lambda: ended, "the end of the request")


def test_a_client_that_leaves_a_stream_ends_it_although_no_event_comes():
    ended = []

    async def stream(request: Request) -> Response:
        async def events():
            yield b"data: first\n\n"
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        return StreamingResponse(events(), media_type="text/event-stream")

    with serving(Starlette(routes=[Route("/stream", stream)])) as server:
        with server.connect() as client:
            client.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while b"first\n\n\r\n" not in received:
                received += client.recv(1000)
        eventually(lambda: ended, "the end of the stream")
