"""Limits how many large messages of a connection are in ZeroMQ's queue, whose own limit counts messages, not bytes."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import zmq

LARGE_FRAME_BYTES = 64 << 10
MAX_LARGE_MESSAGES = 2


class Window:
    """The large messages of one connection that ZeroMQ has not yet passed to the kernel."""

    def __init__(self) -> None:
        self._queued: deque[zmq.MessageTracker] = deque()

    @property
    def has_room(self) -> bool:
        """Whether another large message may be sent now."""
        while self._queued and self._queued[0].done:
            self._queued.popleft()
        return len(self._queued) < MAX_LARGE_MESSAGES

    def track(self, frames: Sequence[Any]) -> list[Any]:
        """The same frames for sending, with trackers on the large ones. They count until they have left."""
        tracked = [zmq.Frame(frame, track=True, copy=False) if _is_large(frame) else frame for frame in frames]
        self._queued.append(zmq.MessageTracker(*(frame for frame in tracked if isinstance(frame, zmq.Frame))))
        return tracked

    def forget_last(self) -> None:
        """Stop counting the message that was tracked last, because it was not sent."""
        self._queued.pop()


def _is_large(frame: Any) -> bool:
    return memoryview(frame).nbytes > LARGE_FRAME_BYTES
