"""Reads a plain ZeroMQ socket from the event loop, many messages at a time.

`zmq.asyncio` wakes the loop for each message; a thousand replicas' heartbeats would keep it busy with that alone. Here
the first message wakes it, and for a moment after that it only looks again and again: the busier, the more at a time.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import zmq

PAUSE_SECONDS = 0.02
MOST_AT_ONCE = 1_000


class Inbox:
    """Hands each message of `socket` to `handle`, as its frames. Open and close it in the event loop."""

    def __init__(self, socket: "zmq.Socket[bytes]", handle: Callable[[list[bytes]], None]) -> None:
        self._socket = socket
        self._handle = handle
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin to read."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(0, self._look)

    def close(self) -> None:
        """Read no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._loop.remove_reader(self._socket.FD)

    def _look(self) -> None:
        """Take what is there, and look again soon; when nothing is, wait for the socket to call."""
        found = 0
        try:
            while found < MOST_AT_ONCE and (frames := take(self._socket)) is not None:
                found += 1
                self._handle(frames)
        finally:
            if found:
                self._timer = self._loop.call_later(PAUSE_SECONDS if found < MOST_AT_ONCE else 0, self._look)
            else:
                self._loop.add_reader(self._socket.FD, self._called)

    def _called(self) -> None:
        self._loop.remove_reader(self._socket.FD)
        self._look()


def take(socket: "zmq.Socket[bytes]") -> list[Any] | None:
    """The next message, if one is there."""
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
