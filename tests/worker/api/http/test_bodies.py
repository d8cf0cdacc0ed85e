"""Bodies: codings, deadlines, and limits of one and of all together, against a server in this process."""

import asyncio
import gzip
import threading
import time
import zlib

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from omni_worker.api.errors import install_error_handlers
from omni_worker.api.http import bodies, cycle
from omni_worker.api.http.bodies import Bodies, Decoder
from omni_worker.api.http.methods import OneSpelling
from tests.worker.serving import eventually

from .raw import echo, hello, pieces, read_response, serving, status

LIMIT, TOGETHER = 1_000_000, 1_500_000
TEXT = b'{"prompt": "a red three"}' * 5000


class App(FastAPI):
    """An app with the middleware, whose requests wait as long as `gate` is not set."""

    def __init__(self) -> None:
        self.gate, self.arrived = threading.Event(), []

        async def hold(request: Request) -> Response:
            body = await request.body()
            self.arrived.append(len(body))
            await asyncio.to_thread(self.gate.wait)
            return Response("held")

        super().__init__(
            routes=[
                Route("/echo", echo, methods=["POST"]),
                Route("/hello", hello, methods=["GET"]),
                Route("/pieces", pieces, methods=["GET"]),
                Route("/hold", hold, methods=["POST"]),
            ]
        )
        self.router.redirect_slashes = False
        install_error_handlers(self)
        self.add_middleware(Bodies, max_bytes=LIMIT, max_bytes_together=TOGETHER)
        self.add_middleware(OneSpelling)


@pytest.fixture(scope="module")
def app():
    return App()


@pytest.fixture(scope="module")
def server(app):
    with serving(app) as server:
        yield server


def post(server, body, *headers, path=b"/echo"):
    head = b"".join(header + b"\r\n" for header in headers)
    lines = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n"
    return server.exchange(lines % (path, head, len(body)) + body)


# ---- codings


@pytest.mark.parametrize(
    ("coding", "encoded"),
    [
        pytest.param(b"gzip", gzip.compress(TEXT), id="gzip"),
        pytest.param(b"GZIP", gzip.compress(TEXT), id="in capitals"),
        pytest.param(b"x-gzip", gzip.compress(TEXT), id="its older name"),
        pytest.param(b"identity, gzip", gzip.compress(TEXT), id="identity too"),
        pytest.param(b"gzip", gzip.compress(TEXT[:70]) + gzip.compress(TEXT[70:]), id="two members"),
        pytest.param(b"deflate", zlib.compress(TEXT), id="deflate"),
        pytest.param(b"identity", TEXT, id="identity"),
        pytest.param(b"", TEXT, id="an empty header"),
    ],
)
def test_codings_are_decoded(server, coding, encoded):
    answer = post(server, encoded, b"Content-Encoding: " + coding)
    assert status(answer) == 200
    assert answer.partition(b"\r\n\r\n")[2] == TEXT


@pytest.mark.parametrize("coding", [b"zstd", b"br", b"gzip, gzip", b"aes128gcm"])
def test_other_codings_are_415_and_named(server, coding):
    answer = post(server, TEXT, b"Content-Encoding: " + coding)
    assert status(answer) == 415
    assert coding in answer
    assert b"accept-encoding: gzip, deflate" in answer


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(TEXT, id="not encoded"),
        pytest.param(gzip.compress(TEXT)[:-9], id="cut off"),
        pytest.param(gzip.compress(TEXT) + b"more", id="garbage behind it"),
    ],
)
def test_what_is_not_what_its_coding_says_is_400(server, body):
    answer = post(server, body, b"Content-Encoding: gzip")
    assert status(answer) == 400
    assert b"Content-Encoding" in answer


def test_the_limit_holds_for_the_decoded_body(server):
    assert status(post(server, gzip.compress(bytes(LIMIT + 1)), b"Content-Encoding: gzip")) == 413
    assert status(post(server, gzip.compress(bytes(LIMIT)), b"Content-Encoding: gzip")) == 200
    assert status(post(server, bytes(LIMIT + 1))) == 413


def test_a_decoder_gives_small_pieces():
    decoder = Decoder()
    decoder.feed(gzip.compress(bytes(10 * bodies.PIECE + 5)))
    sizes = []
    while data := decoder.read():
        sizes.append(len(data))
    assert sum(sizes) == 10 * bodies.PIECE + 5
    assert max(sizes) <= bodies.PIECE
    assert decoder.is_complete


# ---- deadlines and memory


@pytest.mark.parametrize("sent", [b"", b"{", b"x" * 2000])
@pytest.mark.parametrize("coding", [b"", b"Content-Encoding: gzip\r\n"])
def test_a_body_that_does_not_come_ends_the_connection(server, monkeypatch, caplog, sent, coding):
    monkeypatch.setattr(cycle, "BODY_SECONDS", 0.2)
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3000\r\n" + coding + b"\r\n"
    answer = server.exchange(head + sent)
    assert not answer or (coding and status(answer) == 400)  # what has come is no gzip
    assert "Exception" not in caplog.text


def test_a_body_that_comes_slowly_and_steadily_is_read(server, monkeypatch):
    monkeypatch.setattr(cycle, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(cycle, "BODY_BYTES_PER_SECOND", 1)
    with server.connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n")
        for byte in b"slowly":
            client.sendall(bytes([byte]))
            time.sleep(0.2)
        assert read_response(client).endswith(b"slowly")


def test_a_request_takes_as_long_as_it_needs_once_its_body_is_there(app, server, monkeypatch):
    monkeypatch.setattr(cycle, "BODY_SECONDS", 0.1)
    app.gate.clear()
    app.arrived.clear()
    with server.connect() as client:
        client.sendall(b"POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        eventually(lambda: app.arrived, "the body")
        time.sleep(0.3)
        app.gate.set()
        assert read_response(client).endswith(b"held")
    app.gate.clear()
    app.arrived.clear()


def test_the_bodies_of_all_requests_together_are_bounded(app, server):
    body = bytes(LIMIT)
    request = b"POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with server.connect() as first:
        first.sendall(request)
        eventually(lambda: app.arrived, "the first body")
        answer = post(server, body)
        assert status(answer) == 503
        assert b"retry-after" in answer.lower()
        assert status(post(server, bytes(bodies.FREE_BYTES))) == 200, "small ones are not counted"
        app.gate.set()
        assert read_response(first).endswith(b"held")
    eventually(lambda: status(post(server, body)) == 200, "memory again")


# ---- one spelling


@pytest.mark.parametrize("path", ["/hello", "/pieces", "/hello/"])
def test_head_is_answered_like_get_without_a_body(server, path):
    def answer(method):
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        head, _, body = server.exchange(head.encode()).partition(b"\r\n\r\n")
        return [line for line in head.split(b"\r\n") if not line.startswith((b"date", b"transfer-encoding"))], body

    (got, body), (asked, nothing) = answer("GET"), answer("HEAD")
    assert got == asked
    assert body
    assert not nothing


def test_head_of_what_cannot_be_fetched_is_405_or_404(server):
    assert status(server.exchange(b"HEAD /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")) == 405
    assert status(server.exchange(b"HEAD /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")) == 404


def test_a_trailing_slash_is_not_redirected(server):
    assert post(server, b"hi", path=b"/echo/").endswith(b"hi")
