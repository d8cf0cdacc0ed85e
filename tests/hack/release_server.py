"""A web server with a release, that misbehaves as a test asks: what the development cluster's download must survive."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Trouble:
    """What goes wrong with one file."""

    cut_after: list[int] = field(default_factory=list)
    """Bytes after which the connection breaks: one entry for each answer, until none is left."""
    seconds_a_block: float = 0
    """The time between two blocks of 1,000 bytes."""
    stalls: int = 0
    """How many answers send their head and then nothing."""
    code: int = 0
    """The status of every answer."""
    can_resume: bool = True


class ReleaseServer(ThreadingHTTPServer):
    """`files`: path -> content. The checksum of each is published beside it, unless the test puts another there."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.troubles: dict[str, Trouble] = {}
        self.requests: list[tuple[str, str]] = []
        """The path and the range of each."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def publish(self, path: str, content: bytes, checksum: str = "sha256") -> None:
        self.files[path] = content
        self.files[f"{path}.{checksum}"] = f"{hashlib.sha256(content).hexdigest()}  {path}\n".encode()

    def ranges(self, path: str) -> list[str]:
        return [asked for one, asked in self.requests if one == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ReleaseServer

    def do_GET(self) -> None:
        path, asked = self.path, self.headers.get("Range", "")
        self.server.requests.append((path, asked))
        trouble = self.server.troubles.get(path, Trouble())
        content = self.server.files.get(path)
        if content is None or trouble.code:
            self.send_error(trouble.code or 404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and trouble.can_resume else 0
        if start >= len(content):
            self.send_error(416)
            return
        rest = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if trouble.stalls:
            trouble.stalls -= 1
            time.sleep(1)
            self.close_connection = True
            return
        if trouble.cut_after:
            rest = rest[: trouble.cut_after.pop(0)]
            self.close_connection = True
        for at in range(0, len(rest), 1000):
            self.wfile.write(rest[at : at + 1000])
            time.sleep(trouble.seconds_a_block)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the requests are kept."""


@contextmanager
def release_server() -> Iterator[ReleaseServer]:
    server = ReleaseServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
