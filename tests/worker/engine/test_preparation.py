"""Payloads are prepared beside the engine's loop: a long one delays nobody, and a failed one fails only its request."""

import queue
import threading

import pytest

from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.scheduler import Finished, RequestStatus, SchedulerRequest, StepScheduler
from tests.worker.engine.test_engine import CountingRunner

LONG, BAD = 1000, -1


class Halves:
    """Payloads become half as large. Those of LONG and more wait for `gate`."""

    def __init__(self):
        self.gate = threading.Event()
        self.began = queue.Queue()

    def is_quick(self, payload):
        return payload < LONG

    def prepare(self, payload):
        self.began.put(payload)
        if payload >= LONG:
            assert self.gate.wait(30)
        if payload == BAD:
            raise ValueError("bad")
        return payload % LONG // 2


@pytest.fixture
def running():
    events, halves = queue.Queue(), Halves()
    engine = Engine(StepScheduler(2, max_waiting=1), UniProcExecutor(CountingRunner()), events.put, preparer=halves)
    engine.start()
    yield engine, halves, events
    halves.gate.set()
    engine.stop()


def ended(events):
    while not isinstance(event := events.get(timeout=30), Finished):
        pass
    return event


def test_a_long_preparation_delays_no_other_request(running):
    engine, halves, events = running
    engine.add(SchedulerRequest("long", LONG + 4))
    assert halves.began.get(timeout=30) == LONG + 4
    for i in range(5):
        engine.add(SchedulerRequest(str(i), 6))
        assert ended(events).id == str(i)
    assert engine.load.waiting == 1
    halves.gate.set()
    assert (ended(events).id, engine.load.waiting) == ("long", 0)


def test_an_error_fails_only_its_request(running):
    engine, _, events = running
    engine.add(SchedulerRequest("bad", BAD))
    engine.add(SchedulerRequest("good", 6))
    outcomes = {event.id: event for event in (ended(events), ended(events))}
    assert outcomes["good"].status is RequestStatus.COMPLETED
    assert (outcomes["bad"].status, str(outcomes["bad"].error)) == (RequestStatus.FAILED, "bad")


def test_an_aborted_request_ends_at_once_and_its_payload_goes_to_no_other(running):
    engine, halves, events = running
    engine.add(SchedulerRequest("a", LONG + 4))
    halves.began.get(timeout=30)
    engine.abort("a")
    assert ended(events).status is RequestStatus.ABORTED
    engine.add(SchedulerRequest("a", LONG + 8))
    engine.add(SchedulerRequest("b", LONG + 6))
    engine.abort("b")
    assert (ended(events).id, engine.load.waiting) == ("b", 1)
    halves.gate.set()
    assert ended(events).status is RequestStatus.COMPLETED
    assert halves.began.get(timeout=30) == LONG + 8, "the payload of b was not prepared"


def test_requests_that_are_prepared_count_in_the_queue(running):
    engine, halves, events = running
    for i in range(3):
        engine.add(SchedulerRequest(str(i), LONG))
    engine.add(SchedulerRequest("more", 6))
    event = ended(events)
    assert (event.id, event.error.kind) == ("more", "busy")
    halves.gate.set()
    assert {ended(events).id for _ in range(3)} == {"0", "1", "2"}
