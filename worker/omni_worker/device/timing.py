"""Measures how long model calls take on the device, without waiting for them to end.

A GPU runs behind the process that feeds it. If every call were waited for, the GPU would idle while the process
prepares the next one. So the time of a call is read when the next call has been submitted.
"""

import time
from typing import NamedTuple

import torch


class TimedCall(NamedTuple):
    """A call and how long it took. `number` is the caller's own."""

    number: int
    seconds: float


class CallTimer:
    """Measures calls one after another: `start` before a call, `stop` after it. This one is for a CPU."""

    def __init__(self) -> None:
        self._began = 0.0

    def start(self) -> None:
        """A call is about to be submitted."""
        self._began = time.perf_counter()

    def stop(self, number: int, is_typical: bool = True) -> TimedCall | None:
        """The call was submitted. Returns the last call whose time is known now; None if that was no typical one."""
        return TimedCall(number, time.perf_counter() - self._began) if is_typical else None


class CudaCallTimer(CallTimer):
    """For a GPU. `stop` returns the time of the call before, and waits for that one to end.

    So the process is at most one call ahead of the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._previous: tuple[int, bool, torch.cuda.Event, torch.cuda.Event] | None = None

    def start(self) -> None:
        self._begin = torch.cuda.Event(enable_timing=True)
        self._begin.record()

    def stop(self, number: int, is_typical: bool = True) -> TimedCall | None:
        end = torch.cuda.Event(enable_timing=True)
        end.record()
        previous, self._previous = self._previous, (number, is_typical, self._begin, end)
        if previous is None:
            return None
        previous_number, was_typical, began, ended = previous
        ended.synchronize()
        return TimedCall(previous_number, began.elapsed_time(ended) / 1e3) if was_typical else None


def call_timer() -> CallTimer:
    """The timer for this process's device."""
    return CudaCallTimer() if torch.cuda.is_available() else CallTimer()
