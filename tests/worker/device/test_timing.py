"""Times of calls, read without waiting for the call that was just submitted."""

import torch

from omni_worker.device.timing import CallTimer, CudaCallTimer


class Event:
    """A CUDA event on a device whose clock the test sets; its record ends when the test says so."""

    now, waited = 0.0, []

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = Event.now

    def synchronize(self):
        Event.waited.append(self.at)

    def elapsed_time(self, end):
        return (end.at - self.at) * 1e3


def test_on_a_gpu_the_time_of_a_call_comes_with_the_next_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    timer, results = CudaCallTimer(), []
    for number, seconds in enumerate((1.0, 2.0, 4.0, 8.0)):
        timer.start()
        Event.now += seconds
        results.append(timer.stop(number, is_typical=number != 1))
        assert Event.now not in Event.waited, "nobody waits for the call that was just submitted"
    assert results == [None, (0, 1.0), None, (2, 4.0)]
    assert Event.waited == [1.0, 3.0, 7.0]


def test_a_call_that_failed_is_passed_over(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    timer = CudaCallTimer()
    timer.start()
    timer.stop(0)
    timer.start()  # and no stop: it raised
    timer.start()
    assert timer.stop(1).number == 0


def test_on_a_cpu_the_time_is_known_at_once():
    timer = CallTimer()
    timer.start()
    assert timer.stop(3).number == 3
    assert timer.stop(4, is_typical=False) is None
