"""The bound on what is held, and how long those that find no room are told to wait: against a simulated engine."""

import random
import statistics
from collections import Counter

import pytest

from omni_worker.engine.scheduler import (
    Finished,
    QueueFull,
    RequestScheduler,
    SchedulerRequest,
    StepScheduler,
)
from omni_worker.engine.scheduler.forecast import Pace, end_times

from .scripted_runner import DECODE, ENCODE, Script, ScriptedRunner


def ends(running, waiting, places, seconds=lambda together: 1.0):
    return list(end_times(running, waiting, places, seconds))


def test_the_first_end_is_that_of_the_fewest_steps():
    assert ends([(5, "A"), (2, "A"), (9, "A")], [], 3) == [2.0, 5.0, 9.0]


def test_the_waiting_take_the_places_of_those_that_ended():
    assert ends([(2, "A")], [(3, None), (1, None)], 1) == [2.0, 5.0, 6.0]
    assert ends([], [(3, None), (1, None), (1, None)], 2) == [1.0, 2.0, 3.0]


def test_a_round_takes_what_those_that_run_need_together():
    assert ends([(1, "A"), (2, "A"), (2, "B")], [], 3, lambda together: together["A"] + 10.0 * together["B"]) == [
        12.0,
        23.0,
        23.0,
    ]


def test_a_pace_counts_all_that_happens_between_steps_and_forgets():
    pace = Pace()
    for _ in range(10):
        pace.add_step(3.0, steps=0, modelled=0.0)
        pace.add_step(1.0, steps=2, modelled=1.0)
    assert pace.step_seconds == pytest.approx(2.0, rel=0.05)
    assert pace.stretch == pytest.approx(4.0, rel=0.05)
    for _ in range(2000):
        pace.add_step(1.0, steps=2, modelled=1.0)
    assert pace.step_seconds == pytest.approx(0.5, rel=0.01)


def test_what_is_held_is_bounded_and_a_place_that_becomes_free_is_given_away():
    scheduler, runner = StepScheduler(2, max_waiting=1), ScriptedRunner()
    for id in "abc":
        scheduler.add_request(SchedulerRequest(id, Script(steps=1)))
    with pytest.raises(QueueFull, match="3 requests are held"):
        scheduler.add_request(SchedulerRequest("d", Script()))
    scheduler.add_request(SchedulerRequest("taken before", Script(), refusable=False))
    scheduler.abort("ab")
    scheduler.add_request(SchedulerRequest("d", Script()))
    assert scheduler.stats().refused == 1
    while scheduler.has_work:
        scheduled = scheduler.schedule()
        scheduler.update_from_output(scheduled, runner.execute(scheduled))


def test_without_a_bound_all_are_taken_and_with_none_waiting_as_many_as_can_run():
    unbounded, tight = RequestScheduler(), StepScheduler(2, max_waiting=0)
    for number in range(1000):
        unbounded.add_request(SchedulerRequest(str(number), None))
    for number in range(2):
        tight.add_request(SchedulerRequest(str(number), None))
    with pytest.raises(QueueFull):
        tight.add_request(SchedulerRequest("2", None))
    with pytest.raises(ValueError, match="max_waiting is -1"):
        StepScheduler(2, max_waiting=-1)


def test_those_that_are_turned_away_are_not_told_to_come_back_all_at_once():
    scheduler = StepScheduler(1, max_waiting=3)
    for number in range(4):
        scheduler.add_request(SchedulerRequest(str(number), None, steps=10))
    told = [refusal(scheduler, 0.0) for _ in range(6)]
    assert told == [10.0, 20.0, 30.0, 40.0, 40.0, 40.0], "the n-th at the n-th end; none later than the last"


def refusal(scheduler, now):
    with pytest.raises(QueueFull) as full:
        scheduler.add_request(SchedulerRequest("one too many", None), now)
    return full.value.retry_after


class Simulation:
    """An engine whose queue is always full, on its own clock; `mix` are the requests that come, at random."""

    def __init__(self, mix, seconds, whole=False, places=8, waiting=24, find_batch_size=False):
        self.scheduler = (
            RequestScheduler(max_waiting=waiting)
            if whole
            else StepScheduler(places, find_batch_size=find_batch_size, max_waiting=waiting)
        )
        self.runner = ScriptedRunner(whole, seconds)
        self.mix, self.random, self.count = mix, random.Random(0), 0
        self.room = (1 if whole else places) + waiting
        self.began, self.ends = {}, []

    def add(self):
        """One request of the mix; its id."""
        script = self.random.choice(self.mix)
        self.count += 1
        self.scheduler.add_request(SchedulerRequest(str(self.count), script, steps=script.steps), self.runner.now)
        return str(self.count)

    def fill(self):
        """Let requests come until there is no room; the last of them."""
        last = None
        while self.count - len(self.ends) < self.room:
            last = self.add()
        return last

    def turn(self):
        """One turn of the engine."""
        scheduled = self.scheduler.schedule(self.runner.now)
        self.began.update({request.id: self.runner.now for request in scheduled.new})
        for event in self.scheduler.update_from_output(scheduled, self.runner.execute(scheduled)):
            if isinstance(event, Finished):
                self.ends.append(self.runner.now)


COSTS = {"K": (0.5, 0.1), "L": (0.3, 0.4), ENCODE: (0.1, 0.05), DECODE: (1.0, 0.5)}
MIXES = {
    "all alike": ([Script(10)], {}),
    "few and many steps": ([Script(4), Script(4), Script(20), Script(50)], {}),
    "two models to a step, encoded and decoded": ([Script(10, ("K", "L"), True, True), Script(30, ("K", "L"))], {}),
    "small and large": ([Script(20, ("K",)), Script(20, ("L",), decodes=True)], {}),
    "hardly a step, and a dear decoding": ([Script(2, decodes=True), Script(4, decodes=True)], {}),
    "batches as large as pays": ([Script(10), Script(30, ("L",))], {"find_batch_size": True}),
    "one at a time": ([Script(10), Script(30, ("L",), decodes=True)], {"whole": True}),
    "one place": ([Script(10)], {"places": 1}),
}


@pytest.mark.parametrize("name", MIXES)
def test_the_predicted_waits_come_true_within_a_factor_of_two(name):
    mix, settings = MIXES[name]
    simulation = Simulation(mix, COSTS, **settings)
    told_room, told_begin = [], {}
    for turn in range(6_000):
        last, now = simulation.fill(), simulation.runner.now
        if turn > 1000 and last is not None:
            told_begin[last] = now, simulation.scheduler.stats(now).wait
            if turn - 1000 > 60 * len(told_room):  # seldom, for each that is turned away is told a later time
                told_room.append((len(simulation.ends), now, refusal(simulation.scheduler, now)))
        simulation.turn()
    rooms = [(told, simulation.ends[place] - now) for place, now, told in told_room if place < len(simulation.ends)]
    begins = [(told, simulation.began[id] - now) for id, (now, told) in told_begin.items() if id in simulation.began]
    for pairs in (rooms, begins):
        assert len(pairs) > 20
        ratio = statistics.fmean(told for told, _ in pairs) / statistics.fmean(came for _, came in pairs)
        assert 0.5 < ratio < 2.0, f"told {ratio:.2f} of what came"
    within = Counter(0.5 < told / came < 2.0 for told, came in begins)
    assert within[True] > 0.9 * within.total(), f"a wait to begin is right each time: {within}"
