"""A queue of keys for level-triggered work: a key waits at most once, and only one worker works on it at a time.

A key that is added while a worker works on it is worked on again afterwards. Urgent keys, for changes that a user waits
for, come first. After its work a key rests: what happens to it soon afterwards, mostly the echo of that work, is
handled in one go. A failed key returns after a delay that doubles with each failure in a row. The queue belongs to one
event loop and is not thread-safe.
"""

import asyncio
import random
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class WorkQueue(Generic[Key]):
    """`first_delay` and `max_delay` bound the delay of a failed key, in seconds, before a random ±10 %.

    `rest`: seconds after its work for which a key is not worked on again, unless it is urgent. On a busy server, where
    the work takes longer than that, it rests as long as the work took, up to four times `rest`.
    """

    def __init__(self, first_delay: float = 0.2, max_delay: float = 30.0, rest: float = 0.0) -> None:
        self._first_delay, self._max_delay, self._rest = first_delay, max_delay, rest
        self._waiting: deque[Key] = deque()
        self._urgent: deque[Key] = deque()
        self._added_at: dict[Key, float] = {}
        self._active_since: dict[Key, float] = {}
        self._added_while_active: dict[Key, bool] = {}
        """Keys to add when their worker has finished, and whether they are urgent."""
        self._resting: dict[Key, bool] = {}
        """Keys that rest, and whether they were added meanwhile."""
        self._rests: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._has_work = asyncio.Event()

    def add(self, key: Key, is_urgent: bool = False) -> None:
        """Queue the key, unless it waits already. An urgent one overtakes those that are not."""
        if key in self._active_since:
            self._added_while_active[key] = is_urgent or self._added_while_active.get(key, False)
        elif key in self._resting and not is_urgent:
            self._resting[key] = True
        elif key not in self._added_at:
            self._added_at[key] = asyncio.get_running_loop().time()
            (self._urgent if is_urgent else self._waiting).append(key)
            self._has_work.set()
        elif is_urgent and key not in self._urgent:
            self._waiting.remove(key)
            self._urgent.append(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Add the key later; a second call replaces the first one."""
        timer = self._timers.pop(key, None)
        if timer:
            timer.cancel()
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._add_delayed, key)

    async def get(self) -> Key:
        """The next key. It is active until `finish` or `retry`."""
        while not (self._urgent or self._waiting):
            self._has_work.clear()
            await self._has_work.wait()
        key = (self._urgent or self._waiting).popleft()
        del self._added_at[key]
        if self._resting.pop(key, None) is not None:
            self._rests.pop(key).cancel()
        self._active_since[key] = asyncio.get_running_loop().time()
        return key

    def finish(self, key: Key) -> None:
        """The work on an active key succeeded; forgets its failures and its delay."""
        self._failures.pop(key, None)
        timer = self._timers.pop(key, None)
        if timer:
            timer.cancel()
        if self._rest:
            loop = asyncio.get_running_loop()
            took = loop.time() - self._active_since[key]
            self._resting[key] = False
            self._rests[key] = loop.call_later(min(max(self._rest, took), 4 * self._rest), self._end_rest, key)
        self._deactivate(key)

    def retry(self, key: Key, min_delay: float = 0.0) -> float:
        """The work on an active key failed; queues it again later. Returns the delay, at least `min_delay` seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        backoff = min(self._max_delay, self._first_delay * 2.0 ** min(failures, 30)) * random.uniform(0.9, 1.1)
        delay = max(min_delay, backoff)
        self._deactivate(key)
        self.add_after(key, delay)
        return delay

    def depth(self) -> int:
        """Number of keys that wait."""
        return len(self._urgent) + len(self._waiting)

    def oldest_age(self) -> float:
        """Seconds that the oldest key has waited, or has been worked on; 0 if the queue is empty."""
        now = asyncio.get_running_loop().time()
        starts = [*self._added_at.values(), *self._active_since.values()]
        return max((now - start for start in starts), default=0.0)

    def _deactivate(self, key: Key) -> None:
        del self._active_since[key]
        if key in self._added_while_active:
            self.add(key, self._added_while_active.pop(key))

    def _end_rest(self, key: Key) -> None:
        del self._rests[key]
        if self._resting.pop(key):
            self.add(key)

    def _add_delayed(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)
