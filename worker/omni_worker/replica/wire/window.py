"""How many large frames are left to ZeroMQ at a time, which itself counts messages and not bytes."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import zmq

LARGE_FRAME = 64 << 10
LARGE_MESSAGES = 2


class Window:
    """The large messages of one connection that ZeroMQ has not yet handed to the kernel."""

    def __init__(self) -> None:
        self._leaving: deque[zmq.MessageTracker] = deque()

    @property
    def has_room(self) -> bool:
        """Whether another large message may be sent now."""
        while self._leaving and self._leaving[0].done:
            self._leaving.popleft()
        return len(self._leaving) < LARGE_MESSAGES

    def track(self, frames: Sequence[Any]) -> list[Any]:
        """The frames to send instead of these: `has_room` knows when the large ones among them have left."""
        tracked = [zmq.Frame(frame, track=True, copy=False) if _is_large(frame) else frame for frame in frames]
        self._leaving.append(zmq.MessageTracker(*(frame for frame in tracked if isinstance(frame, zmq.Frame))))
        return tracked

    def forget_last(self) -> None:
        """What was tracked last was not sent."""
        self._leaving.pop()


def _is_large(frame: Any) -> bool:
    return memoryview(frame).nbytes > LARGE_FRAME
