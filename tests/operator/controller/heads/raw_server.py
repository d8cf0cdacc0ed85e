"""A TCP server that sends what a test tells it, whether that is HTTP or not."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: closing sends a reset."""
Answer = Callable[[], Iterable[bytes]]


class RawServer:
    """Serves at `url`, until it is closed: to each connection the pieces of `answer`, after it has read the request.

    `pause`: seconds between two pieces. `is_reset`: end with a reset.
    """

    def __init__(self, answer: Answer, pause: float = 0.0, is_reset: bool = False) -> None:
        self.answer, self.pause, self.is_reset = answer, pause, is_reset
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_closed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._is_closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.requests.append(connection.recv(65536))
            for piece in self.answer():
                connection.sendall(piece)
                if self._is_closed.is_set():
                    return
                time.sleep(self.pause)
            if self.is_reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
