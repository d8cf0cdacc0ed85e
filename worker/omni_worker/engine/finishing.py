"""Converts the runner's results in threads of their own, so that the engine continues with the next step meanwhile.

A picture takes milliseconds and a video seconds, which every other request would wait for.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from omni_worker.device.failures import DeviceFailed, breaks_device
from omni_worker.engine.runner.interface import Unfinished
from omni_worker.engine.scheduler import Finished, RequestStatus, SchedulerEvent

log = logging.getLogger(__name__)
THREADS = 4
MAX_WAITING = 8  # unfinished results, which hold the device's memory; then the engine waits


class Finishing:
    """Passes the engine's events on, those with an unfinished result from a thread. Until `start`, it has no threads.

    on_failure: called if the device turns out to be broken
    """

    def __init__(self, on_event: Callable[[SchedulerEvent], None], on_failure: Callable[[Exception], None]) -> None:
        self._on_event = on_event
        self._on_failure = on_failure
        self._room = threading.Semaphore(MAX_WAITING)
        self._threads: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Finish results in threads from now on."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="finishing")

    def stop(self) -> None:
        """Wait until every result has been passed on."""
        if self._threads is not None:
            self._threads.shutdown()

    def emit(self, event: SchedulerEvent) -> None:
        """Pass an event on, at once or when its result is finished."""
        if not isinstance(event, Finished) or not isinstance(event.result, Unfinished):
            self._on_event(event)
        elif self._threads is None:
            self._finish(event)
        else:
            self._room.acquire()
            self._threads.submit(self._finish_with_room, event)

    def _finish_with_room(self, event: Finished) -> None:
        try:
            self._finish(event)
        except Exception:  # the pool would keep it for itself
            log.exception("the end of request %s could not be passed on", event.id)
        finally:
            self._room.release()

    def _finish(self, event: Finished) -> None:
        try:
            finished = Finished(event.id, event.status, event.result.finish())
        except Exception as error:
            if breaks_device(error):
                self._on_failure(DeviceFailed(f"the device is broken: {error}"))
                return
            finished = Finished(event.id, RequestStatus.FAILED, error=error)
        self._on_event(finished)
