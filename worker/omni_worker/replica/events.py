"""Brings the engine's events from its thread into the event loop.

Results and partial results are delivered at once. Progress is delivered at most every PROGRESS_SECONDS, because each
delivery holds up the engine's thread for as long as the event loop takes.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from omni_worker.engine.scheduler import Finished, SchedulerEvent

PROGRESS_SECONDS = 0.1


class EventBridge:
    """`put` is called in the engine's thread. Everything else, `deliver` included, runs in the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[SchedulerEvent], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._waiting: deque[SchedulerEvent] = deque()
        self._is_scheduled = False
        self._is_pausing = False

    def put(self, event: SchedulerEvent) -> None:
        """Deliver an event soon. Events are delivered in the order in which they were put."""
        self._waiting.append(event)
        is_urgent = isinstance(event, Finished) or event.partial is not None
        if not self._is_scheduled and (is_urgent or not self._is_pausing):
            self._is_scheduled = True
            self._loop.call_soon_threadsafe(self.deliver_waiting)

    def deliver_waiting(self) -> None:
        """Deliver all events that wait, and pause progress for PROGRESS_SECONDS."""
        self._is_scheduled = False
        while self._waiting:
            self._deliver(self._waiting.popleft())
        if not self._is_pausing:
            self._is_pausing = True
            self._loop.call_later(PROGRESS_SECONDS, self._end_pause)

    def _end_pause(self) -> None:
        self._is_pausing = False
        if self._waiting:
            self.deliver_waiting()
