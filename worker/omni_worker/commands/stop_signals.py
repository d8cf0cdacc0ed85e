"""Stopping a process: SIGTERM and SIGINT set an event, for which `omni serve` waits before it drains."""

import asyncio
import signal
from typing import Any


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets. Call it in the running event loop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def wait_for_stop(stop: asyncio.Event, *tasks: "asyncio.Task[Any]") -> None:
    """Return when `stop` is set or the first of `tasks` ends. Raises what that task raised."""
    stopping = asyncio.ensure_future(stop.wait())
    ended, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in ended - {stopping}:
        task.result()
