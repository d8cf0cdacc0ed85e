"""A queue of keys for level-triggered work: a key waits at most once, and is never worked on twice at a time.

A key that is added while it is worked on is worked on again afterwards. What a user waits for goes before the rest.
Failed keys come back after a delay that doubles with every failure in a row. It lives on one event loop, and is not
thread-safe.
"""

import asyncio
import random
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class KeyedQueue(Generic[Key]):
    """`first` and `most` bound the delay of a failed key, in seconds; a tenth is added or taken at random."""

    def __init__(self, first: float = 0.2, most: float = 30.0) -> None:
        self._first, self._most = first, most
        self._waiting: deque[Key] = deque()
        self._urgent: deque[Key] = deque()
        self._added: dict[Key, float] = {}
        self._active: dict[Key, float] = {}
        self._again: dict[Key, bool] = {}
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._has_work = asyncio.Event()

    def add(self, key: Key, is_urgent: bool = False) -> None:
        """Have the key worked on, once, as soon as a worker is free; an urgent one before those that are not."""
        if key in self._active:
            self._again[key] = is_urgent or self._again.get(key, False)
        elif key not in self._added:
            self._added[key] = asyncio.get_running_loop().time()
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
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._due, key)

    async def get(self) -> Key:
        """The next key; it is active until `succeeded` or `failed`."""
        while not (self._urgent or self._waiting):
            self._has_work.clear()
            await self._has_work.wait()
        key = (self._urgent or self._waiting).popleft()
        del self._added[key]
        self._active[key] = asyncio.get_running_loop().time()
        return key

    def succeeded(self, key: Key) -> None:
        self._failures.pop(key, None)
        timer = self._timers.pop(key, None)
        if timer:
            timer.cancel()
        self._finish(key)

    def failed(self, key: Key, least: float = 0.0) -> float:
        """Returns the seconds until the key comes back, `least` of them or more."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = max(least, min(self._most, self._first * 2.0 ** min(failures, 30)) * random.uniform(0.9, 1.1))
        self._finish(key)
        self.add_after(key, delay)
        return delay

    def depth(self) -> int:
        """Keys that wait."""
        return len(self._urgent) + len(self._waiting)

    def age(self) -> float:
        """Seconds that the oldest key has waited or been worked on; 0 where there is none."""
        now = asyncio.get_running_loop().time()
        return max((now - since for since in [*self._added.values(), *self._active.values()]), default=0.0)

    def _finish(self, key: Key) -> None:
        del self._active[key]
        if key in self._again:
            self.add(key, self._again.pop(key))

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)
