"""Brings the engine's events into the event loop.

What somebody waits for, a result or a part of one, is brought at once. How far requests are is brought at most every
PROGRESS_SECONDS: each time, the engine's thread is held up for as long as the loop's takes.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from omni_worker.engine.scheduler import Finished, SchedulerEvent

PROGRESS_SECONDS = 0.1


class Events:
    """`put` is called in the engine's thread, all else in the loop, `deliver` too."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[SchedulerEvent], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._waiting: deque[SchedulerEvent] = deque()
        self._is_woken = False
        self._is_resting = False

    def put(self, event: SchedulerEvent) -> None:
        """Have an event delivered, in the order in which they come."""
        self._waiting.append(event)
        is_awaited = isinstance(event, Finished) or event.partial is not None
        if not self._is_woken and (is_awaited or not self._is_resting):
            self._is_woken = True
            self._loop.call_soon_threadsafe(self.take)

    def take(self) -> None:
        """Deliver what there is."""
        self._is_woken = False
        while self._waiting:
            self._deliver(self._waiting.popleft())
        if not self._is_resting:
            self._is_resting = True
            self._loop.call_later(PROGRESS_SECONDS, self._rested)

    def _rested(self) -> None:
        self._is_resting = False
        if self._waiting:
            self.take()
