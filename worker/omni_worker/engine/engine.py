"""The engine's loop: the only driver of its scheduler and its executor.

Other threads hand in work through `submit`, `abort` and `rpc`, which only put it into an inbox; the loop takes it
between two steps. Events leave through a callback that the loop thread calls.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from omni_worker.engine.executor import Executor, ExecutorFailed
from omni_worker.engine.scheduler import (
    Finished,
    QueueFull,
    SchedulerEvent,
    SchedulerInterface,
    SchedulerRequest,
    SchedulerStats,
    Status,
)
from omni_worker.engine.scheduler.interface import Load
from omni_worker.errors import RequestError

log = logging.getLogger(__name__)


Answer = TypeVar("Answer")


@dataclass
class Call(Generic[Answer]):
    """Something to do between two steps: `run` is given what the wait for its turn left of the time, in seconds."""

    name: str
    run: Callable[[float], Answer]
    deadline: float
    future: "Future[Answer]" = field(default_factory=Future)


class Engine:
    """Runs in a thread of its own: `start`, then `submit` from anywhere, then `stop`."""

    def __init__(
        self,
        scheduler: SchedulerInterface,
        executor: Executor,
        on_event: Callable[[SchedulerEvent], None],
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._on_event = on_event
        self._on_failure = on_failure or (lambda error: None)
        self._inbox: deque[SchedulerRequest | str | Call[Any]] = deque()
        self._entering = 0
        self._wake = threading.Condition()
        self._stopping = False
        self._lost: Exception | None = None
        self._load = Load()
        self.steps = 0
        self.step_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the loop thread. From now on the loss of the executor's workers ends it, while it is idle too."""
        self._executor.watch(self._lose)
        self._thread.start()

    def submit(self, request: SchedulerRequest) -> None:
        """Hand in a request; exactly one Finished event will follow."""
        self._put(request, entering=1)

    def abort(self, id: str) -> None:
        """End a request at the next step boundary. An id that is not held is passed over."""
        self._put(id)

    def rpc(self, method: str, *args: Any, timeout: float = 10.0) -> "Future[list[Any]]":
        """Call a method of the runner between two steps; TimeoutError if its turn has not come in `timeout` seconds."""
        return self._between_steps(
            method, lambda left: self._executor.collective_rpc(method, args, left), time.monotonic() + timeout
        )

    def scheduler_stats(self, timeout: float = 10.0) -> "Future[SchedulerStats]":
        """What the scheduler tells of itself between two steps; TimeoutError as for `rpc`."""
        return self._between_steps(
            "stats", lambda left: self._scheduler.stats(time.monotonic()), time.monotonic() + timeout
        )

    def stop(self) -> None:
        """End the loop after the step that runs, and shut the executor down."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    @property
    def load(self) -> Load:
        """What the scheduler held after the last step; requests still in the inbox count as waiting."""
        return Load(waiting=self._load.waiting + self._entering, running=self._load.running)

    @property
    def is_alive(self) -> bool:
        """Whether the loop turns."""
        return self._thread.is_alive()

    def step(self) -> None:
        """One turn of the loop: take what came in, schedule, execute, update."""
        self._take_inbox()
        scheduled = self._scheduler.schedule(time.monotonic())
        if not scheduled.is_empty:
            began = time.perf_counter()
            output = self._executor.execute(scheduled)
            self.steps, self.step_seconds = self.steps + 1, self.step_seconds + time.perf_counter() - began
            self._emit(self._scheduler.update_from_output(scheduled, output))
        self._load = self._scheduler.load

    def _run(self) -> None:
        try:
            while True:
                with self._wake:
                    self._wake.wait_for(lambda: self._inbox or self._stopping or self._lost or self._scheduler.has_work)
                if self._stopping:
                    break
                if self._lost is not None:
                    raise self._lost
                self.step()
        except Exception as error:
            log.exception("the engine failed; this replica ends")
            self._on_failure(error)
        finally:
            self._executor.shutdown()

    def _lose(self, error: Exception) -> None:
        with self._wake:
            self._lost = error
            self._wake.notify()

    def _take_inbox(self) -> None:
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, str):
                self._emit(self._scheduler.abort([item]))
            elif isinstance(item, Call):
                self._answer(item)
            else:
                with self._wake:
                    self._entering -= 1
                self._add(item)

    def _add(self, request: SchedulerRequest) -> None:
        error: Exception
        try:
            self._scheduler.add_request(request, time.monotonic())
            return
        except QueueFull as full:
            error = RequestError("busy", str(full), retry_after=full.retry_after)
        except ValueError as invalid:
            error = invalid
        self._emit([Finished(request.id, Status.FAILED, error=error)])

    def _answer(self, call: Call[Any]) -> None:
        if time.monotonic() > call.deadline:
            call.future.set_exception(TimeoutError(f"{call.name}: its turn did not come in time"))
            return
        try:
            answer = call.run(call.deadline - time.monotonic())
        except Exception as error:
            call.future.set_exception(error)
            if isinstance(error, ExecutorFailed):
                raise
        else:
            call.future.set_result(answer)

    def _emit(self, events: list[SchedulerEvent]) -> None:
        for event in events:
            self._on_event(event)

    def _between_steps(self, name: str, run: Callable[[float], Answer], deadline: float) -> "Future[Answer]":
        call = Call(name, run, deadline)
        self._put(call)
        return call.future

    def _put(self, item: SchedulerRequest | str | Call[Any], entering: int = 0) -> None:
        with self._wake:
            self._entering += entering
            self._inbox.append(item)
            self._wake.notify()
