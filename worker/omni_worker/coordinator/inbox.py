"""Reads a plain ZeroMQ socket from the event loop, many messages at a time.

`zmq.asyncio` wakes the loop for each message, which would keep it busy with a thousand replicas' heartbeats alone. An
Inbox is woken by the first message, and then reads the socket every PAUSE_SECONDS until it is empty.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import zmq

PAUSE_SECONDS = 0.02
MAX_BATCH = 1_000


class Inbox:
    """Calls `handle` with the frames of each message from `socket`. Open and close it in the event loop."""

    def __init__(self, socket: "zmq.Socket[bytes]", handle: Callable[[list[bytes]], None]) -> None:
        self._socket = socket
        self._handle = handle
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Start reading."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(0, self._read)

    def close(self) -> None:
        """Stop reading."""
        if self._timer is not None:
            self._timer.cancel()
            self._loop.remove_reader(self._socket.FD)

    def _read(self) -> None:
        """Handle the waiting messages, and read again soon. If there are none, wait until the socket is readable."""
        count = 0
        try:
            while count < MAX_BATCH and (frames := receive_now(self._socket)) is not None:
                count += 1
                self._handle(frames)
        finally:
            if count:
                self._timer = self._loop.call_later(PAUSE_SECONDS if count < MAX_BATCH else 0, self._read)
            else:
                self._loop.add_reader(self._socket.FD, self._on_readable)

    def _on_readable(self) -> None:
        self._loop.remove_reader(self._socket.FD)
        self._read()


def receive_now(socket: "zmq.Socket[bytes]") -> list[Any] | None:
    """The next message, or None if there is none now."""
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
