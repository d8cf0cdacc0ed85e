"""Polls all heads again and again, each independently of the others, and reports the pipelines that need a pass.

A head whose last answer was not usable is polled in other threads than those that answer. So any number of heads that
hang or lie delays only each other.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from omni_operator.controller.heads.poller import Poller
from omni_operator.crd.objects import PipelineKey

logger = logging.getLogger(__name__)

THREADS = 8
"""Heads that are asked at the same time, of those that answered last time; and as many of those that did not."""

AnyPoller = Poller[Any, Any]


class PollLoop:
    """`on_change` is called, on the event loop, with the key of a pipeline that needs another pass."""

    def __init__(self, pollers: Sequence[AnyPoller], on_change: Callable[[PipelineKey], None]) -> None:
        self._pollers, self._on_change = pollers, on_change
        self._answering = ThreadPoolExecutor(THREADS, thread_name_prefix="poll")
        self._failing = ThreadPoolExecutor(THREADS, thread_name_prefix="poll-failing")
        self._running: dict[tuple[AnyPoller, PipelineKey], asyncio.Task[None]] = {}

    async def run(self, seconds: float) -> None:
        """Begin a poll of every head each `seconds`, except of those whose last poll still runs."""
        while True:
            await asyncio.sleep(seconds)
            for poller in self._pollers:
                failing = poller.failing_keys
                for key in poller.keys:
                    if (poller, key) not in self._running:
                        pool = self._failing if key in failing else self._answering
                        self._running[poller, key] = asyncio.create_task(self._poll(poller, key, pool))

    async def _poll(self, poller: AnyPoller, key: PipelineKey, pool: ThreadPoolExecutor) -> None:
        try:
            if await asyncio.get_running_loop().run_in_executor(pool, poller.poll, key):
                self._on_change(key)
        finally:
            del self._running[poller, key]
