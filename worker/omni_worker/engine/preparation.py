"""Prepares the payloads of new requests in threads of their own, so that no other request waits for it.

Tokenizing a long text takes seconds. One thread prepares what is quick, and another one what is not: so a long text
delays no short one, and only one long text at a time needs memory for its preparation.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol

from omni_worker.engine.scheduler import SchedulerRequest


class Preparer(Protocol):
    """Prepares payloads, in any thread."""

    def is_quick(self, payload: Any) -> bool:
        """Whether preparing it takes milliseconds."""

    def prepare(self, payload: Any) -> Any:
        """The payload for the runner. Raises the error with which the request ends."""


class Preparation:
    """Two threads, which start with the first request that they need.

    is_waiting: whether a request still waits for its payload
    on_done: called in a thread with a request and its prepared payload
    on_failure: called in a thread with a request and the error
    """

    def __init__(
        self,
        preparer: Preparer,
        is_waiting: Callable[[SchedulerRequest], bool],
        on_done: Callable[[SchedulerRequest, Any], None],
        on_failure: Callable[[SchedulerRequest, Exception], None],
    ) -> None:
        self._preparer = preparer
        self._is_waiting = is_waiting
        self._on_done = on_done
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._queues: dict[bool, SimpleQueue[SchedulerRequest]] = {}

    def submit(self, request: SchedulerRequest) -> None:
        """Prepare a request's payload. `on_done` or `on_failure` follows, unless the request stops waiting."""
        is_quick = self._preparer.is_quick(request.payload)
        with self._lock:
            if is_quick not in self._queues:
                self._queues[is_quick] = SimpleQueue()
                name = "quick preparation" if is_quick else "long preparation"
                threading.Thread(target=self._run, args=(self._queues[is_quick],), name=name, daemon=True).start()
            self._queues[is_quick].put(request)

    def _run(self, queue: "SimpleQueue[SchedulerRequest]") -> None:
        while True:
            self._prepare(queue.get())

    def _prepare(self, request: SchedulerRequest) -> None:
        if not self._is_waiting(request):
            return
        try:
            prepared = self._preparer.prepare(request.payload)
        except Exception as error:
            self._on_failure(request, error)
        else:
            self._on_done(request, prepared)
