"""The engine's loop: the only driver of its scheduler and its executor.

Other threads hand in requests through `add`, which asks the scheduler at once whether there is room: one that is
turned away learns so without waiting for a step to end. What `abort` and `collective_rpc` hand in is put into an inbox,
and the loop takes it between two steps. The scheduler has a lock around it, which nobody holds while its output runs.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from omni_worker.engine.executor import Executor, ExecutorFailed
from omni_worker.engine.scheduler import (
    Finished,
    QueueFull,
    RequestStatus,
    RunnerOutput,
    SchedulerEvent,
    SchedulerInterface,
    SchedulerOutput,
    SchedulerRequest,
    SchedulerStats,
)
from omni_worker.engine.scheduler.interface import EngineLoad
from omni_worker.errors import RequestError

log = logging.getLogger(__name__)


@dataclass
class PendingRpc:
    """A call of a runner method; its deadline covers the wait for its turn."""

    method: str
    args: tuple[Any, ...]
    deadline: float
    future: "Future[list[Any]]" = field(default_factory=Future)


@dataclass(frozen=True)
class EngineStep:
    """One turn of the loop, for whoever follows requests through it; times are in seconds since 1970."""

    scheduled: SchedulerOutput
    output: RunnerOutput
    began: float
    ended: float


class Engine:
    """Runs in a thread of its own: `start`, then `add` from anywhere, then `stop`.

    `on_event` is called in that thread, or in the one that calls `add`. `on_step`, where there is one, is called in
    that thread, before the events of the turn.
    """

    def __init__(
        self,
        scheduler: SchedulerInterface,
        executor: Executor,
        on_event: Callable[[SchedulerEvent], None],
        on_failure: Callable[[Exception], None] | None = None,
        on_step: Callable[[EngineStep], None] | None = None,
    ) -> None:
        self._on_turn = on_step
        self._scheduler = scheduler
        self._executor = executor
        self._on_event = on_event
        self._on_failure = on_failure or (lambda error: None)
        self._inbox: deque[str | PendingRpc] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._lost: Exception | None = None
        self.steps = 0
        self.step_seconds = 0.0
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the loop thread. From now on the loss of the executor's workers ends it, while it is idle too."""
        self._executor.watch(self._lose)
        self._thread.start()

    def add(self, request: SchedulerRequest) -> None:
        """Hand in a request; exactly one Finished event will follow, at once where the request is turned away."""
        error: Exception
        try:
            with self._wake:
                self._scheduler.add_request(request, time.monotonic())
                self._wake.notify()
            return
        except QueueFull as full:
            error = RequestError("busy", str(full), retry_after=full.retry_after)
        except ValueError as refusal:
            error = refusal
        self._emit([Finished(request.id, RequestStatus.FAILED, error=error)])

    def abort(self, id: str) -> None:
        """End a request at the next step boundary. An id that is not held is passed over."""
        self._put(id)

    def collective_rpc(self, method: str, timeout: float = 10.0, args: tuple[Any, ...] = ()) -> "Future[list[Any]]":
        """Call a method of every worker's runner between two steps; their answers in rank order.

        TimeoutError if they have not come within `timeout` seconds, the wait for its turn included.
        """
        call = PendingRpc(method, args, time.monotonic() + timeout)
        self._put(call)
        return call.future

    def stop(self, timeout: float | None = None) -> bool:
        """End the loop after the step that runs, and shut the executor down; whether that was done within `timeout`."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def load(self) -> EngineLoad:
        """What the scheduler holds."""
        with self._wake:
            return self._scheduler.load

    @property
    def scheduler_stats(self) -> SchedulerStats:
        """What the metrics show of the scheduler."""
        with self._wake:
            return self._scheduler.stats(time.monotonic())

    @property
    def is_alive(self) -> bool:
        """Whether the loop turns."""
        return self._thread.is_alive()

    @property
    def seconds_in_step(self) -> float:
        """How long the step that runs now has been running; 0 where none does."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def step(self) -> None:
        """One turn of the loop: take what came in, schedule, execute, update."""
        self._take_inbox()
        with self._wake:
            scheduled = self._scheduler.schedule(time.monotonic())
        if not scheduled.is_empty:
            began, self._step_began = time.perf_counter(), time.monotonic()
            output = self._executor.execute(scheduled)
            self._step_began = None
            self.steps, self.step_seconds = self.steps + 1, self.step_seconds + time.perf_counter() - began
            with self._wake:
                events = self._scheduler.update_from_output(scheduled, output)
            if self._on_turn is not None:
                now = time.time()
                self._on_turn(EngineStep(scheduled, output, now - (time.perf_counter() - began), now))
            self._emit(events)

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
                with self._wake:
                    events = self._scheduler.abort([item])
                self._emit(events)
            else:
                self._answer(item)

    def _answer(self, call: PendingRpc) -> None:
        if time.monotonic() > call.deadline:
            call.future.set_exception(TimeoutError(f"{call.method}: its turn did not come in time"))
            return
        try:
            answers = self._executor.collective_rpc(call.method, call.args, call.deadline - time.monotonic())
        except Exception as error:
            call.future.set_exception(error)
            if isinstance(error, ExecutorFailed):
                raise
        else:
            if time.monotonic() > call.deadline:
                call.future.set_exception(TimeoutError(f"{call.method}: it took longer than its deadline"))
            else:
                call.future.set_result(answers)

    def _emit(self, events: list[SchedulerEvent]) -> None:
        for event in events:
            self._on_event(event)

    def _put(self, item: str | PendingRpc) -> None:
        with self._wake:
            self._inbox.append(item)
            self._wake.notify()
