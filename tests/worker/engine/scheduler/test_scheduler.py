"""What the schedulers do, case by case; `test_scheduler_properties` has what holds in all of them."""

import pytest

from omni_worker.engine.scheduler import (
    Finished,
    RequestOutput,
    RequestScheduler,
    RequestStatus,
    RunnerOutput,
    SchedulerOutput,
    SchedulerRequest,
    StepScheduler,
)


class FakeRunner:
    """A small real runner without a model: request "a:K:3" makes 3 calls of key K; one that says "fail" fails."""

    def __init__(self):
        self.left = {}
        self.done = {}

    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        for id in output.finished:
            self.left.pop(id, None)
        answers = []
        for request in output.new:
            assert request.id not in self.left, "a request is prepared once"
            self.left[request.id] = int(request.payload.split(":")[2])
            self.done[request.id] = 0
            answers.append(self._answer(request.id, request.payload))
        for id in output.cached:
            self.left[id] -= 1
            self.done[id] += 1
            answers.append(self._answer(id, self.payloads[id]))
        return RunnerOutput(output.step_id, tuple(answers))

    payloads: dict = {}  # noqa: RUF012 - filled by each test's `add`

    def _answer(self, id, payload):
        _, key, total = payload.split(":")
        if key == "fail":
            return RequestOutput(id, error=RuntimeError("poisoned"))
        if self.left[id] == 0:
            return RequestOutput(id, result=payload)
        return RequestOutput(id, key=key, step=self.done[id], total_steps=int(total))


def add(scheduler, runner, payload):
    runner.payloads[payload] = payload
    scheduler.add_request(SchedulerRequest(payload, payload))


def turn(scheduler, runner):
    scheduled = scheduler.schedule()
    return scheduled, scheduler.update_from_output(scheduled, runner.execute(scheduled))


def run_to_end(scheduler, runner, limit=1000):
    ended = []
    for _ in range(limit):
        if not scheduler.has_work:
            return ended
        ended += [event for event in turn(scheduler, runner)[1] if isinstance(event, Finished)]
    raise AssertionError("the scheduler never came to an end")


def test_a_short_request_joins_a_long_one_and_ends_first():
    scheduler, runner = StepScheduler(4), FakeRunner()
    add(scheduler, runner, "long:K:50")
    for _ in range(10):
        turn(scheduler, runner)
    add(scheduler, runner, "short:K:4")
    assert [event.id for event in run_to_end(scheduler, runner)] == ["short:K:4", "long:K:50"]


def test_requests_of_one_key_share_each_call():
    scheduler, runner = StepScheduler(4), FakeRunner()
    for name in "abc":
        add(scheduler, runner, f"{name}:K:2")
    turn(scheduler, runner)
    scheduled, _ = turn(scheduler, runner)
    assert scheduled.cached == ("a:K:2", "b:K:2", "c:K:2")


def test_a_request_of_another_key_does_not_wait_for_the_first_to_end():
    scheduler, runner = StepScheduler(4), FakeRunner()
    add(scheduler, runner, "big:A:50")
    add(scheduler, runner, "small:B:2")
    assert next(event.id for event in run_to_end(scheduler, runner)) == "small:B:2"


def test_a_poisoned_request_fails_alone():
    scheduler, runner = StepScheduler(4), FakeRunner()
    for payload in ("a:K:3", "bad:fail:1", "b:K:3"):
        add(scheduler, runner, payload)
    status = {event.id: event.status for event in run_to_end(scheduler, runner)}
    assert status == {
        "a:K:3": RequestStatus.COMPLETED,
        "bad:fail:1": RequestStatus.FAILED,
        "b:K:3": RequestStatus.COMPLETED,
    }


def test_a_preempted_request_resumes_where_it_was():
    scheduler, runner = StepScheduler(1), FakeRunner()
    add(scheduler, runner, "a:K:5")
    for _ in range(3):
        turn(scheduler, runner)
    scheduler.preempt("a:K:5")
    assert scheduler.load.running == 0
    run_to_end(scheduler, runner)
    assert runner.done["a:K:5"] == 5


def test_the_abort_of_the_only_request_still_frees_its_state():
    scheduler, runner = StepScheduler(1), FakeRunner()
    add(scheduler, runner, "a:K:5")
    turn(scheduler, runner)
    assert [event.status for event in scheduler.abort(["a:K:5"])] == [RequestStatus.ABORTED]
    assert scheduler.has_work
    turn(scheduler, runner)
    assert not runner.left
    assert not scheduler.has_work


def test_an_id_that_is_held_is_refused_and_one_that_ended_may_come_again():
    scheduler, runner = StepScheduler(1), FakeRunner()
    add(scheduler, runner, "a:K:1")
    with pytest.raises(ValueError, match="'a:K:1' is held"):
        add(scheduler, runner, "a:K:1")
    run_to_end(scheduler, runner)
    add(scheduler, runner, "a:K:1")
    assert len(run_to_end(scheduler, runner)) == 1


def test_a_request_that_the_runner_forgets_fails():
    scheduler = StepScheduler(1)
    scheduler.add_request(SchedulerRequest("a", None))
    scheduled = scheduler.schedule()
    (event,) = scheduler.update_from_output(scheduled, RunnerOutput(scheduled.step_id))
    assert (event.id, event.status) == ("a", RequestStatus.FAILED)


def test_request_mode_runs_one_at_a_time_in_order():
    scheduler = RequestScheduler()
    for id in "abc":
        scheduler.add_request(SchedulerRequest(id, None))
    order = []
    while scheduler.load.waiting:
        scheduled = scheduler.schedule()
        (request,) = scheduled.new
        order.append(request.id)
        scheduler.update_from_output(scheduled, RunnerOutput(0, (RequestOutput(request.id, result="done"),)))
    assert order == ["a", "b", "c"]


@pytest.mark.parametrize("bound", [0, -1])
def test_a_bound_below_one_is_refused(bound):
    with pytest.raises(ValueError, match="at least one request"):
        StepScheduler(bound)


def test_times_that_come_with_a_later_output_belong_to_their_own_batch():
    scheduler = StepScheduler(4)
    for id in "abc":
        scheduler.add_request(SchedulerRequest(id, None))
    timed = None
    for _ in range(20):
        scheduled = scheduler.schedule()
        ids = [request.id for request in scheduled.new] + list(scheduled.cached)
        output = RunnerOutput(scheduled.step_id, tuple(RequestOutput(id, key="K") for id in ids), timed)
        scheduler.update_from_output(scheduled, output)
        timed = (scheduled.step_id, float(len(scheduled.cached))) if scheduled.cached else None
        if scheduled.step_id == 10:
            scheduler.abort(["a"])
    (stats,) = scheduler.stats().keys
    assert stats.seconds == stats.calls - 2, "all but the last batch, which has two calls"
    assert stats.line == pytest.approx((0.0, 1.0))
