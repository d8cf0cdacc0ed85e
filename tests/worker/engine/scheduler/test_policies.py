"""What each policy does that the others do not, and what all of them promise."""

from collections import Counter

import pytest

from omni_worker.engine.scheduler import POLICIES, Finished, SchedulerRequest, StepScheduler
from omni_worker.engine.scheduler.policies import AGING_SECONDS

from .scripted_runner import Script, ScriptedRunner
from .test_scheduler import FakeRunner


class Bench:
    """A scheduler of one policy with a clock: every turn takes a second."""

    def __init__(self, policy, max_num_seqs=1):
        self.scheduler, self.runner = StepScheduler(max_num_seqs, POLICIES[policy]()), FakeRunner()
        self.now = 0.0
        self.ended = []
        self.ran = []

    def add(self, name, calls, key="K", **wishes):
        payload = f"{name}:{key}:{calls}"
        self.runner.payloads[payload] = payload
        self.scheduler.add_request(SchedulerRequest(payload, payload, steps=calls, **wishes), self.now)

    def turn(self):
        scheduled = self.scheduler.schedule(self.now)
        for event in self.scheduler.update_from_output(scheduled, self.runner.execute(scheduled)):
            if isinstance(event, Finished):
                self.ended.append(event.id.split(":")[0])
        self.ran += [id.split(":")[0] for id in scheduled.cached]
        self.now += 1.0

    def run(self, turns=None):
        left = 10_000 if turns is None else turns
        while self.scheduler.has_work and left:
            self.turn()
            left -= 1
        return self.ended


@pytest.mark.parametrize("policy", POLICIES)
def test_a_higher_priority_goes_first_and_takes_the_place_of_a_lower_one_that_runs(policy):
    bench = Bench(policy)
    bench.add("low", 10)
    bench.run(4)
    bench.add("high", 10, priority=1)
    assert bench.run() == ["high", "low"]
    assert bench.runner.done["low:K:10"] == 10, "the one that gave way resumed where it was"


@pytest.mark.parametrize("policy", POLICIES)
def test_nobody_starves_under_an_endless_stream_of_better_requests(policy):
    bench = Bench(policy)
    bench.add("patient", 5, key="P", priority=-1)
    for i in range(60):
        bench.add(f"r{i}", 3, priority=0, deadline=bench.now + 20)
        bench.run(4)
        if "patient" in bench.ended:
            break
    assert "patient" in bench.ended
    assert bench.now > AGING_SECONDS


@pytest.mark.parametrize("policy", ["fifo", "drr"])
def test_keys_take_turns_so_that_no_shape_waits_for_another_to_end(policy):
    bench = Bench(policy, max_num_seqs=2)
    bench.add("long", 50, key="A")
    bench.add("short", 3, key="B")
    assert bench.run()[0] == "short"


def test_fifo_keeps_the_order_of_arrival():
    bench = Bench("fifo")
    for name, calls in (("a", 9), ("b", 1), ("c", 5)):
        bench.add(name, calls)
    assert bench.run() == ["a", "b", "c"]


def test_drr_shares_the_time_between_tenants_however_many_requests_each_has():
    bench = Bench("drr", max_num_seqs=8)
    for i in range(6):
        bench.add(f"greedy{i}", 40, key=f"G{i}", tenant="greedy")
    bench.add("modest", 40, key="M", tenant="modest")
    bench.run(71)
    share = Counter(name.rstrip("0123456789") for name in bench.ran)
    assert share["modest"] >= len(bench.ran) // 7 - 1


def test_srpt_ends_the_shortest_first_and_lets_it_overtake_one_that_runs():
    bench = Bench("srpt")
    bench.add("long", 30)
    bench.run(3)
    bench.add("short", 3)
    bench.add("middle", 9)
    assert bench.run() == ["short", "middle", "long"]


def test_edf_goes_by_deadline_and_does_not_let_a_lost_one_drag_down_the_rest():
    bench = Bench("edf")
    bench.add("relaxed", 5, deadline=100.0)
    bench.add("urgent", 5, deadline=20.0)
    bench.add("lost", 50, deadline=21.0)
    bench.add("whenever", 5)
    assert bench.run() == ["urgent", "relaxed", "lost", "whenever"]


class Timed:
    """A scheduler of one policy, and a runner whose steps are two calls of a second each, alone or in a batch."""

    def __init__(self, policy):
        self.scheduler = StepScheduler(4, POLICIES[policy](), find_batch_size=True)
        self.runner = ScriptedRunner(seconds=dict.fromkeys(("A+", "A-", "B+", "B-"), (0.99, 0.01)))
        self.ends = {}
        for kind in "AB":
            self.add(f"{kind} first", kind, 3)
            self.add(f"{kind} second", kind, 6)
        self.run()  # so that batches of one and of two were seen

    @property
    def now(self):
        return self.runner.now

    def add(self, name, kind, steps, **wishes):
        script = Script(steps, keys=(f"{kind}+", f"{kind}-"))
        self.scheduler.add_request(SchedulerRequest(name, script, steps=steps, **wishes), self.now)

    def run(self, turns=10_000):
        while self.scheduler.has_work and (turns := turns - 1) >= 0:
            scheduled = self.scheduler.schedule(self.now)
            for event in self.scheduler.update_from_output(scheduled, self.runner.execute(scheduled)):
                if isinstance(event, Finished):
                    self.ends[event.id] = self.now


def test_edf_counts_all_that_a_request_still_takes_and_not_what_it_adds_to_a_batch():
    timed = Timed("edf")
    timed.add("lost", "A", 10, deadline=timed.now + 15)  # which it would meet with one call a step
    timed.add("met", "B", 9, deadline=(due := timed.now + 20))
    timed.run()
    assert timed.ends["met"] <= due < timed.ends["lost"]


def test_srpt_does_not_take_one_that_waits_a_moment_for_one_that_is_shorter():
    timed = Timed("srpt")
    timed.add("long", "A", 30)
    timed.run(11)
    timed.add("short", "B", 15)
    timed.run()
    assert timed.ends["short"] < timed.ends["long"]


def test_a_batch_is_filled_up_from_lower_classes():
    bench = Bench("fifo", max_num_seqs=3)
    bench.add("a", 4, priority=1)
    bench.add("b", 4)
    bench.add("c", 4)
    bench.run(3)
    assert Counter(bench.ran) == {"a": 2, "b": 2, "c": 2}
