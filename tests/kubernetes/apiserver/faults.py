"""A bad way to a good API server: a proxy that refuses calls, breaks connections and cuts watches, as the test asks.

It listens without TLS on this machine and passes on to the real server with the credentials of a kubeconfig. What it
does to a call is chosen by a seeded generator, so that a run can be had again as far as the order of calls allows.
"""

import http.client
import json
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kubernetes import client, config

REFUSED = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: closing sends a reset."""
HOPS = ("transfer-encoding", "connection", "content-length", "host", "accept-encoding")


@dataclass(frozen=True)
class Call:
    """A call as the API server would see it."""

    method: str
    path: str
    time: float

    @property
    def is_watch(self) -> bool:
        return "watch=true" in self.path

    @property
    def is_write(self) -> bool:
        """Whether it would change anything but a Lease, which whoever leads renews for ever."""
        return self.method != "GET" and "/leases" not in self.path and "dryRun=All" not in self.path


@dataclass
class Faults:
    """What goes wrong: the part of the calls, of each kind, that gets one of the troubles, chosen with equal chance.

    A number is a status with which a call is refused; `reset` breaks the connection before the server hears of the
    call; `lost` lets the server answer, and breaks the connection then; `cut` breaks a watch in mid-stream; `gone`
    tells a watch that its version is too old, in the stream.
    """

    seed: int = 0
    part: float = 0.2
    reads: Sequence[int | str] = (429, 500, 503, "reset", "lost")
    writes: Sequence[int | str] = (409, 429, 500, 503, "reset", "lost")
    watches: Sequence[int | str] = ()
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def choose(self, call: Call) -> int | str | None:
        kinds = self.watches if call.is_watch else self.reads if call.method == "GET" else self.writes
        return self._chance.choice(kinds) if kinds and self._chance.random() < self.part else None


class FaultyServer(ThreadingHTTPServer):
    """The proxy. `faults` may be changed at any time; None lets everything pass.

    `refused`: the status with which every call is refused whose path contains such a text.
    `made_up`: what is answered to a GET whose path has such an end, instead of the server's answer.
    """

    daemon_threads = True

    def __init__(self, kubeconfig: str) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        behind = client.Configuration()
        config.load_kube_config(kubeconfig, client_configuration=behind)
        self.behind = urlsplit(behind.host)
        self.credentials = {one["key"]: one["value"] for one in behind.auth_settings().values()}
        self.context = ssl.create_default_context(cafile=behind.ssl_ca_cert)
        if behind.cert_file:
            self.context.load_cert_chain(behind.cert_file, behind.key_file)
        self.faults: Faults | None = None
        self.refused: dict[str, int] = {}
        self.made_up: dict[str, Any] = {}
        self.calls: list[Call] = []
        self.done: list[int | str] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def kubeconfig(self, file: Path) -> str:
        """A kubeconfig that leads here."""
        here = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.server_address[1]}"}}
        context = {"name": "here", "context": {"cluster": "here", "user": "nobody"}}
        users = [{"name": "nobody", "user": {}}]
        content = {"clusters": [here], "contexts": [context], "users": users, "current-context": "here"}
        file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **content}))
        return str(file)

    def choose(self, call: Call) -> int | str | None:
        with self._lock:
            self.calls.append(call)
            refused = (status for part, status in self.refused.items() if part in call.path)
            trouble = next(refused, None) or (self.faults.choose(call) if self.faults else None)
            if trouble:
                self.done.append(trouble)
            return trouble

    def break_all(self) -> None:
        """Break every connection that there is."""
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    one.shutdown(socket.SHUT_RDWR)

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def writes_since(self, moment: float) -> list[Call]:
        return [call for call in self.calls if call.time >= moment and call.is_write]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break here by design."""


@contextmanager
def faulty_server(kubeconfig: str) -> Iterator[FaultyServer]:
    server = FaultyServer(kubeconfig)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Passing(BaseHTTPRequestHandler):
    """One connection of a client, and one of its own behind it."""

    protocol_version = "HTTP/1.1"
    server: FaultyServer
    behind: http.client.HTTPSConnection | None = None

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        trouble = self.server.choose(Call(self.command, self.path, time.monotonic()))
        if isinstance(trouble, int):
            return self.refuse(trouble)
        if trouble == "reset":
            return self.reset()
        for end, content in self.server.made_up.items():
            if self.command == "GET" and self.path.endswith(end):
                return self.answer(200, json.dumps(content).encode(), "application/json")
        response = self.ask(body)
        if trouble == "lost":
            response.read()
            return self.reset()
        if "watch=true" in self.path and response.status == 200:
            return self.stream(response, trouble)
        self.answer(response.status, response.read(), response.getheader("Content-Type") or "")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

    def ask(self, body: bytes) -> http.client.HTTPResponse:
        if self.behind is None:
            where = self.server.behind
            self.behind = http.client.HTTPSConnection(where.hostname or "", where.port, context=self.server.context)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in HOPS}
        self.behind.request(self.command, self.path, body or None, headers | self.server.credentials)
        return self.behind.getresponse()

    def stream(self, response: http.client.HTTPResponse, trouble: str | None) -> None:
        """A watch, line by line; with `cut` it breaks within the third line, with `gone` it ends at the second."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, line in enumerate(iter(response.readline, b""), start=1):
            if trouble == "cut" and number == 3:
                self.chunk(line[: len(line) // 2])
                return self.reset()
            if trouble == "gone" and number == 2:
                self.chunk(json.dumps({"type": "ERROR", "object": status(410)}).encode() + b"\n")
                break
            self.chunk(line)
        self.chunk(b"")
        self.reset()  # what is left of the watch behind it is of no use

    def chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    def refuse(self, code: int) -> None:
        self.answer(
            code, json.dumps(status(code)).encode(), "application/json", {"Retry-After": "1"} if code == 429 else {}
        )

    def answer(self, code: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.connection.close()

    def finish(self) -> None:
        self.server.closed(self.connection)
        if self.behind is not None:
            self.behind.close()
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the calls are kept."""


def status(code: int) -> dict[str, Any]:
    """A Status object as the API server would refuse with."""
    reason = REFUSED[code]
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
            "message": f"{reason}, made up by the test"}  # fmt: skip
