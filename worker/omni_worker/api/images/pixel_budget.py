"""How many pixels of decoded images a head may hold at one time, over all requests."""

import asyncio
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import numpy as np


class PixelBudget:
    """Limits the pixels of decoded images in memory. Waiting requests get their share in order of arrival."""

    def __init__(self, total: int) -> None:
        self.free = self._total = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, pixels: int) -> None:
        """Wait until so many pixels are free, and take them. More than there are in all count as all."""
        pixels = min(pixels, self._total)
        if not self._waiting and pixels <= self.free:
            self.free -= pixels
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, future))
        try:
            await future
        except BaseException:
            if future.done() and not future.cancelled():
                self.release(pixels)
            else:
                future.cancel()
                self._admit()
            raise

    def release(self, pixels: int) -> None:
        """Give pixels back."""
        self.free += min(pixels, self._total)
        self._admit()

    def release_with(self, arrays: Sequence[np.ndarray], pixels: int) -> None:
        """Give pixels back when the last of these arrays is deleted, in whichever thread that happens."""
        loop = asyncio.get_running_loop()

        def release() -> None:
            with suppress(RuntimeError):  # the loop is closed: the head has ended
                loop.call_soon_threadsafe(self.release, pixels)

        remaining = {id(array) for array in arrays}

        def forget(array_id: int) -> None:
            remaining.discard(array_id)
            if not remaining:
                release()

        for array in arrays:
            weakref.finalize(array, forget, id(array)).atexit = False

    def _admit(self) -> None:
        while self._waiting:
            pixels, future = self._waiting[0]
            if not future.done() and pixels > self.free:
                return
            self._waiting.popleft()
            if not future.done():
                self.free -= pixels
                future.set_result(None)
