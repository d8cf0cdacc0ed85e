"""The engine's loop: the only driver of its scheduler and its executor.

Other threads add requests with `add`. It asks the scheduler at once, so that a full queue rejects a request without
waiting for a step to end. `abort` and `collective_rpc` put their calls into an inbox, which the loop empties between
two steps. A lock protects the scheduler; no thread holds it while an output runs.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from omni_worker.device.failures import DeviceFailed, breaks_device
from omni_worker.engine.executor import Executor, ExecutorFailed
from omni_worker.engine.finishing import Finishing
from omni_worker.engine.preparation import Preparation, Preparer
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
DEVICE_CHECK_SECONDS = 30.0


@dataclass
class PendingRpc:
    """A call of a runner method that waits for the current step to end. Its deadline includes that wait."""

    method: str
    args: tuple[Any, ...]
    deadline: float
    future: "Future[list[Any]]" = field(default_factory=Future)


@dataclass(frozen=True)
class EngineStep:
    """A completed step of the engine, for traces. Times are in seconds since 1970."""

    scheduled: SchedulerOutput
    output: RunnerOutput
    began: float
    ended: float


class Engine:
    """Runs in a thread of its own: call `start`, then `add` from any thread, then `stop`.

    on_event: called in that thread, in the one that calls `add`, or in one that prepares payloads or finishes results
    on_failure: called in that thread when the loop ends because the executor or the device failed
    on_step: called in that thread after each step, before its events
    preparer: prepares the payloads of requests before they can run, in other threads
    """

    def __init__(
        self,
        scheduler: SchedulerInterface,
        executor: Executor,
        on_event: Callable[[SchedulerEvent], None],
        on_failure: Callable[[Exception], None] | None = None,
        on_step: Callable[[EngineStep], None] | None = None,
        preparer: Preparer | None = None,
    ) -> None:
        self._on_step = on_step
        self._preparation = (
            Preparation(preparer, self._is_waiting_for_payload, self._make_ready, self._fail_request)
            if preparer is not None
            else None
        )
        self._scheduler = scheduler
        self._executor = executor
        self._finishing = Finishing(on_event, self._fail)
        self._on_failure = on_failure or (lambda error: None)
        self._inbox: deque[str | PendingRpc] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._error: Exception | None = None
        self.steps = 0
        self.step_seconds = 0.0
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the loop's thread. From now on, a lost worker ends the loop, even while it is idle."""
        self._executor.watch(self._fail)
        self._finishing.start()
        self._thread.start()

    def add(self, request: SchedulerRequest) -> None:
        """Add a request. Exactly one Finished event follows, immediately if the request is rejected."""
        error: Exception
        try:
            with self._wake:
                self._scheduler.add_request(request, time.monotonic(), is_ready=self._preparation is None)
                self._wake.notify()
            if self._preparation is not None:
                self._preparation.submit(request)
            return
        except QueueFull as full:
            error = RequestError("busy", str(full), retry_after=full.retry_after)
        except ValueError as refusal:
            error = refusal
        self._emit([Finished(request.id, RequestStatus.FAILED, error=error)])

    def abort(self, id: str) -> None:
        """End a request after the current step. Unknown ids are ignored."""
        self._put(id)

    def collective_rpc(self, method: str, timeout: float = 10.0, args: tuple[Any, ...] = ()) -> "Future[list[Any]]":
        """Call a method of every worker's runner between two steps; the future has the results in rank order.

        The future raises TimeoutError after `timeout` seconds, which include the wait for the current step.
        """
        call = PendingRpc(method, args, time.monotonic() + timeout)
        self._put(call)
        return call.future

    def stop(self, timeout: float | None = None) -> bool:
        """End the loop after the current step and shut the executor down; returns whether it ended in time."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def load(self) -> EngineLoad:
        """How many requests wait and run."""
        with self._wake:
            return self._scheduler.load

    @property
    def scheduler_stats(self) -> SchedulerStats:
        """The scheduler's metrics."""
        with self._wake:
            return self._scheduler.stats(time.monotonic())

    @property
    def is_alive(self) -> bool:
        """Whether the loop runs."""
        return self._thread.is_alive()

    @property
    def seconds_in_step(self) -> float:
        """Seconds since the current step started; 0 if none runs."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def step(self) -> None:
        """One iteration of the loop: empty the inbox, schedule, execute, update."""
        self._take_inbox()
        with self._wake:
            scheduled = self._scheduler.schedule(time.monotonic())
        if not scheduled.is_empty:
            began, self._step_began = time.perf_counter(), time.monotonic()
            output = self._executor.execute(scheduled)
            self._step_began = None
            self.steps, self.step_seconds = self.steps + 1, self.step_seconds + time.perf_counter() - began
            self._check_device(output)
            with self._wake:
                events = self._scheduler.update_from_output(scheduled, output)
            if self._on_step is not None:
                now = time.time()
                self._on_step(EngineStep(scheduled, output, now - (time.perf_counter() - began), now))
            self._emit(events)

    def _run(self) -> None:
        try:
            while True:
                with self._wake:
                    self._wake.wait_for(
                        lambda: self._inbox or self._stopping or self._error or self._scheduler.has_work
                    )
                if self._stopping:
                    break
                if self._error is not None:
                    raise self._error
                self.step()
        except Exception as error:
            log.exception("the engine failed; this replica ends")
            self._on_failure(error)
        finally:
            self._finishing.stop()
            self._executor.shutdown()

    def _check_device(self, output: RunnerOutput) -> None:
        """Raises DeviceFailed if requests failed because the device is broken: then every later one would fail too."""
        errors = [one.error for one in output.outputs if one.error is not None]
        unexpected = [error for error in errors if not isinstance(error, RequestError)]
        for error in unexpected:
            if breaks_device(error):
                raise DeviceFailed(f"the device is broken: {error}") from error
        if unexpected:
            self._executor.collective_rpc("check_device", (), DEVICE_CHECK_SECONDS)

    def _fail(self, error: Exception) -> None:
        with self._wake:
            self._error = error
            self._wake.notify()

    def _is_waiting_for_payload(self, request: SchedulerRequest) -> bool:
        with self._wake:
            return self._scheduler.is_waiting_for_payload(request)

    def _make_ready(self, request: SchedulerRequest, payload: Any) -> None:
        with self._wake:
            self._scheduler.make_ready(request, payload)
            self._wake.notify()

    def _fail_request(self, request: SchedulerRequest, error: Exception) -> None:
        with self._wake:
            events = self._scheduler.fail(request, error)
        self._emit(events)

    def _take_inbox(self) -> None:
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, str):
                with self._wake:
                    events = self._scheduler.abort([item])
                self._emit(events)
            else:
                self._run_rpc(item)

    def _run_rpc(self, call: PendingRpc) -> None:
        if time.monotonic() > call.deadline:
            call.future.set_exception(TimeoutError(f"{call.method}: its turn did not come in time"))
            return
        try:
            results = self._executor.collective_rpc(call.method, call.args, call.deadline - time.monotonic())
        except Exception as error:
            call.future.set_exception(error)
            if isinstance(error, ExecutorFailed):
                raise
        else:
            if time.monotonic() > call.deadline:
                call.future.set_exception(TimeoutError(f"{call.method}: it took longer than its deadline"))
            else:
                call.future.set_result(results)

    def _emit(self, events: list[SchedulerEvent]) -> None:
        for event in events:
            self._finishing.emit(event)

    def _put(self, item: str | PendingRpc) -> None:
        with self._wake:
            self._inbox.append(item)
            self._wake.notify()
