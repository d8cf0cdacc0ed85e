"""The engine's loop around a real scheduler and a small runner of its own."""

import queue
import threading

import pytest

from omni_worker.device.failures import DeviceFailed
from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.runner import Runner
from omni_worker.engine.scheduler import (
    Finished,
    RequestOutput,
    RequestStatus,
    RunnerOutput,
    SchedulerRequest,
    StepScheduler,
)
from omni_worker.errors import RequestError


class CountingRunner(Runner):
    """A payload is the number of calls, or an error; `gate` holds every execution back while it is closed."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.left = {}
        self.is_closed, self.is_device_broken = False, False

    def execute(self, output):
        self.gate.wait(10)
        for id in output.finished:
            self.left.pop(id, None)
        for request in output.new:
            if request.payload == "kill":
                raise RuntimeError("the device is lost")
            self.left[request.id] = request.payload
        for id in output.cached:
            self.left[id] -= 1
        ids = [request.id for request in output.new] + list(output.cached)
        return RunnerOutput(output.step_id, tuple(self._answer(id) for id in ids))

    def _answer(self, id):
        if isinstance(self.left[id], Exception):
            return RequestOutput(id, error=self.left[id])
        return RequestOutput(id, key="K") if self.left[id] else RequestOutput(id, result="done")

    def stats(self):
        return {"states": len(self.left)}

    def check_device(self):
        if self.is_device_broken:
            raise DeviceFailed("it does not compute")

    def close(self):
        self.is_closed = True


@pytest.fixture
def running():
    events, failures, runner = queue.Queue(), queue.Queue(), CountingRunner()
    engine = Engine(StepScheduler(2), UniProcExecutor(runner), events.put, failures.put)
    engine.start()
    yield engine, runner, events, failures
    runner.gate.set()
    engine.stop()
    assert runner.is_closed


def next_end(events):
    while not isinstance(event := events.get(timeout=120), Finished):
        pass
    return event


def test_requests_from_other_threads_all_end(running):
    engine, _, events, _ = running
    threads = [threading.Thread(target=lambda i=i: engine.add(SchedulerRequest(f"r{i}", 3 + i % 4))) for i in range(20)]
    for thread in threads:
        thread.start()
    assert {next_end(events).id for _ in range(20)} == {f"r{i}" for i in range(20)}


def test_an_abort_ends_a_request_at_the_next_step(running):
    engine, _, events, _ = running
    engine.add(SchedulerRequest("endless", 10**9))
    engine.abort("endless")
    assert next_end(events).status is RequestStatus.ABORTED
    assert engine.collective_rpc("stats").result(10) == [{"states": 0}]


def test_a_repeated_id_fails_and_leaves_the_first_alone(running):
    engine, runner, events, _ = running
    runner.gate.clear()
    engine.add(SchedulerRequest("a", 5))
    engine.add(SchedulerRequest("a", 5))
    runner.gate.set()
    assert [next_end(events).status, next_end(events).status] == [RequestStatus.FAILED, RequestStatus.COMPLETED]


def test_an_rpc_runs_between_steps_and_its_deadline_covers_the_wait(running):
    engine, runner, events, _ = running
    engine.add(SchedulerRequest("a", 10**9))
    events.get(timeout=120)  # its first progress: it runs
    assert engine.collective_rpc("stats").result(10) == [{"states": 1}]
    runner.gate.clear()
    late = engine.collective_rpc("stats", 0.0)
    runner.gate.set()
    with pytest.raises(TimeoutError, match="stats"):
        late.result(10)
    with pytest.raises(ValueError, match="no method 'execute'"):
        engine.collective_rpc("execute").result(10)
    engine.abort("a")
    next_end(events)


def test_the_load_counts_what_has_not_entered_yet_and_no_rpc(running):
    engine, runner, _, _ = running
    runner.gate.clear()
    for i in range(4):
        engine.add(SchedulerRequest(f"r{i}", 1))
    engine.collective_rpc("stats")
    assert engine.load.waiting + engine.load.running <= 4
    assert engine.load.waiting >= 2


def test_a_lost_device_ends_the_engine_and_tells_its_owner():
    failures, runner = queue.Queue(), CountingRunner()
    engine = Engine(StepScheduler(2), UniProcExecutor(runner), lambda event: None, failures.put)
    engine.start()
    engine.add(SchedulerRequest("a", "kill"))
    assert "device is lost" in str(failures.get(timeout=120))
    engine.stop()
    assert not engine.is_alive


@pytest.mark.parametrize("is_named", [True, False])
def test_an_error_that_breaks_the_device_ends_the_engine_before_anybody_is_told(is_named):
    """The head that asked loses the replica instead, so the request runs on another."""
    events, failures, runner = [], queue.Queue(), CountingRunner()
    runner.is_device_broken = not is_named
    engine = Engine(StepScheduler(2), UniProcExecutor(runner), events.append, failures.put)
    engine.start()
    text = "CUDA error: device-side assert triggered" if is_named else "an error that no list names"
    engine.add(SchedulerRequest("a", RuntimeError(text)))
    assert isinstance(failures.get(timeout=10), DeviceFailed)
    engine.stop()
    assert not any(isinstance(event, Finished) for event in events)


def test_an_error_of_a_request_leaves_the_engine_running(running):
    engine, runner, events, failures = running
    for error in (RuntimeError("no such shape"), RequestError("failed", "CUDA error: device-side assert triggered")):
        engine.add(SchedulerRequest("a", error))
        assert next_end(events).error is error
    runner.is_device_broken = True
    engine.add(SchedulerRequest("b", RequestError("invalid", "no such size")))
    assert next_end(events).status is RequestStatus.FAILED
    assert failures.empty()


def test_one_that_finds_no_room_is_turned_away_while_a_step_runs():
    events, runner = queue.Queue(), CountingRunner()
    engine = Engine(StepScheduler(1, max_waiting=1), UniProcExecutor(runner), events.put)
    engine.start()
    runner.gate.clear()
    for id in "abc":
        engine.add(SchedulerRequest(id, 2))
    refused = next_end(events)
    assert (refused.id, refused.error.kind) == ("c", "busy")
    assert refused.error.retry_after > 0
    assert engine.scheduler_stats.refused == 1
    runner.gate.set()
    assert [next_end(events).status, next_end(events).status] == [RequestStatus.COMPLETED] * 2
    engine.stop()
