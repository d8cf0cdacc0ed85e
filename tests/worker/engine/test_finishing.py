"""Results that need more work are finished beside the engine's loop."""

import queue
import threading

import pytest

from omni_worker.device.failures import DeviceFailed
from omni_worker.engine import finishing
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


class Slow:
    """A result that is finished when the test says so."""

    def __init__(self, error=None):
        self.may_end, self.error = threading.Event(), error
        self.thread = None

    def finish(self):
        self.thread = threading.current_thread()
        assert self.may_end.wait(30)
        if self.error is not None:
            raise self.error
        return "finished"


class EndingRunner(Runner):
    """Ends each request at once, with its payload as the result."""

    def execute(self, output):
        return RunnerOutput(output.step_id, tuple(RequestOutput(one.id, result=one.payload) for one in output.new))

    def stats(self):
        return {}

    def close(self):
        pass


@pytest.fixture
def running():
    events, failures = queue.Queue(), queue.Queue()
    engine = Engine(StepScheduler(2), UniProcExecutor(EndingRunner()), events.put, failures.put)
    engine.start()
    yield engine, events, failures
    engine.stop()


def test_others_do_not_wait_for_a_result_that_takes_long(running):
    engine, events, _ = running
    slow = Slow()
    engine.add(SchedulerRequest("video", slow))
    for i in range(5):
        engine.add(SchedulerRequest(f"r{i}", "done"))
        assert events.get(timeout=10) == Finished(f"r{i}", RequestStatus.COMPLETED, "done")
    slow.may_end.set()
    assert events.get(timeout=10) == Finished("video", RequestStatus.COMPLETED, "finished")
    assert slow.thread is not engine._thread


def test_a_result_that_cannot_be_finished_fails_its_request_alone(running):
    engine, events, failures = running
    slow = Slow(ValueError("no number"))
    slow.may_end.set()
    engine.add(SchedulerRequest("a", slow))
    event = events.get(timeout=10)
    assert (event.status, str(event.error)) == (RequestStatus.FAILED, "no number")
    engine.add(SchedulerRequest("b", "done"))
    assert events.get(timeout=10).status is RequestStatus.COMPLETED
    assert failures.empty()


def test_a_device_that_breaks_meanwhile_ends_the_engine(running):
    engine, events, failures = running
    slow = Slow(RuntimeError("CUDA error: an illegal memory access was encountered"))
    slow.may_end.set()
    engine.add(SchedulerRequest("a", slow))
    assert isinstance(failures.get(timeout=10), DeviceFailed)
    assert events.empty()


def test_unfinished_results_are_bounded(running):
    engine, events, _ = running
    waiting = [Slow() for _ in range(finishing.MAX_WAITING + 4)]
    for i, one in enumerate(waiting):
        engine.add(SchedulerRequest(str(i), one))
    for one in waiting:
        one.may_end.set()
    assert {events.get(timeout=10).id for _ in waiting} == {str(i) for i in range(len(waiting))}


def test_no_result_is_lost_when_the_engine_stops(running):
    engine, events, _ = running
    waiting = [Slow() for _ in range(finishing.MAX_WAITING)]
    for i, one in enumerate(waiting):
        engine.add(SchedulerRequest(str(i), one))
    while engine.load.waiting or engine.load.running:
        threading.Event().wait(0.01)
    threading.Timer(0.1, lambda: [one.may_end.set() for one in waiting]).start()
    assert engine.stop(30)
    assert events.qsize() == len(waiting)
