"""What holds for every scheduler and policy, whatever is added, aborted, preempted, and whatever fails."""

import math

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from omni_worker.engine.scheduler import (
    POLICIES,
    Finished,
    QueueFull,
    RequestScheduler,
    RequestStatus,
    SchedulerRequest,
    StepScheduler,
)
from omni_worker.engine.scheduler.policies import AGING_SECONDS

from .scripted_runner import DECODE, ENCODE, Script, ScriptedRunner

MAX_NUM_SEQS = 3
PHASES = tuple(phase for phase in Phase if phase is not Phase.explain)  # which takes minutes

SCRIPTS = st.builds(
    Script,
    steps=st.integers(1, 5),
    keys=st.sampled_from([("A",), ("B",), ("A", "B")]),
    encodes=st.booleans(),
    decodes=st.booleans(),
    fails_at=st.none() | st.none() | st.integers(-1, 4),
)


class SchedulerMachine(RuleBasedStateMachine):
    """Plays engine and runner: a turn is schedule → execute → update; users may do anything before and within it."""

    policy = "fifo"
    whole = False

    @initialize(
        max_waiting=st.sampled_from([None, 0, 2]),
        find_batch_size=st.booleans(),
        overhead=st.sampled_from([0.0, 0.5]),
        room=st.integers(1, MAX_NUM_SEQS),
    )
    def begin(self, max_waiting, find_batch_size, overhead, room):
        policy = POLICIES[self.policy]()
        self.places = 1 if self.whole else MAX_NUM_SEQS
        self.room_for = None if max_waiting is None else self.places + max_waiting
        self.scheduler = (
            RequestScheduler(policy, max_waiting)
            if self.whole
            else StepScheduler(MAX_NUM_SEQS, policy, find_batch_size, max_waiting)
        )
        self.runner = ScriptedRunner(self.whole, {"A": (overhead, 0.1), "B": (overhead, 0.7)}, {"B": room})
        self.alive: dict[str, Script] = {}
        self.known: set[str] = set()
        self.ended: dict[str, RequestStatus] = {}
        self.refused = self.extra = self.count = 0
        self.fits = {}
        self.last_was_loop: bool | None = None

    @rule(
        script=SCRIPTS,
        priority=st.integers(-1, 1),
        tenant=st.sampled_from(["x", "y"]),
        deadline=st.none() | st.floats(0, 100),
        knows_steps=st.booleans(),
        refusable=st.sampled_from([True, True, True, False]),
    )
    def add(self, script, priority, tenant, deadline, knows_steps, refusable):
        now = self.runner.now
        id, self.count = str(self.count), self.count + 1
        until = None if deadline is None else now + deadline
        steps = script.steps if knows_steps else 0
        request = SchedulerRequest(id, script, priority, tenant, until, steps, refusable)
        if refusable and self.room_for is not None and len(self.alive) >= self.room_for:
            with pytest.raises(QueueFull) as full:
                self.scheduler.add_request(request, now)
            assert 0.0 <= full.value.retry_after < math.inf
            self.refused += 1
        else:
            self.scheduler.add_request(request, now)
            self.alive[id] = script

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def add_an_id_that_is_held(self, data):
        with pytest.raises(ValueError, match="held already"):
            self.scheduler.add_request(SchedulerRequest(data.draw(st.sampled_from(sorted(self.alive))), Script()))

    @rule(pause=st.sampled_from([0.0, 0.1, 1.0, 40.0]))
    def turn(self, pause):
        self.runner.now += pause
        self.take(self.update(self.schedule()))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def turn_with_an_abort_while_it_runs(self, data):
        scheduled = self.schedule()
        self.abort(data)
        self.take(self.update(scheduled))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def turn_with_a_preemption_while_it_runs(self, data):
        scheduled = self.schedule()
        self.preempt(data)
        self.take(self.update(scheduled))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def abort(self, data):
        id = data.draw(st.sampled_from(sorted(self.alive)))
        events = self.scheduler.abort([id, "unknown", id])
        assert [(event.id, event.status) for event in events] == [(id, RequestStatus.ABORTED)]
        self.take(events)

    @precondition(lambda self: self.scheduler.load.running)
    @rule(data=st.data())
    def preempt(self, data):
        self.scheduler.preempt(data.draw(st.sampled_from(sorted(self.running))))

    @property
    def running(self):
        return list(self.scheduler._running)

    def schedule(self):
        scheduled = self.scheduler.schedule(self.runner.now)
        assert self.scheduler.load.running == min(self.places, len(self.alive)), "no place is left free"
        ids = [*(request.id for request in scheduled.new), *scheduled.cached]
        assert len(ids) == len(set(ids))
        assert set(ids) <= set(self.running) <= set(self.alive)
        assert scheduled.finished <= set(self.ended)
        assert not {request.id for request in scheduled.new} & self.known
        self.check_batch(scheduled.cached)
        self.known |= {request.id for request in scheduled.new}
        return scheduled

    def check_batch(self, batch):
        ready = [id for id in self.running if id in self.known]
        assert bool(batch) == bool(ready), "where a request is ready, one advances"
        if not batch:
            return
        assert set(batch) <= set(ready)
        key = self.runner.next_key(batch[0])
        assert len(batch) <= self.fits.get(key, self.places)
        is_loop = key not in (ENCODE, DECODE)
        kinds = {self.runner.next_key(id) not in (ENCODE, DECODE) for id in ready}
        assert is_loop != self.last_was_loop or kinds == {is_loop}, "loop calls and others take turns"
        self.last_was_loop = is_loop

    def update(self, scheduled):
        keys = {self.runner.next_key(id) for id in scheduled.cached if id in self.runner.scripts}
        output = self.runner.execute(scheduled)
        if output.out_of_memory:
            (key,) = keys
            self.fits[key] = max(1, len(scheduled.cached) // 2)
        return self.scheduler.update_from_output(scheduled, output)

    def take(self, events):
        for event in events:
            assert event.id in self.alive, "an event of a request that had ended"
            if not isinstance(event, Finished):
                continue
            script = self.alive.pop(event.id)
            self.ended[event.id] = event.status
            if event.status is RequestStatus.COMPLETED:
                assert script.fails_at is None or script.fails_at >= len(script.calls)
                assert event.result == script
                assert self.runner.done[event.id] == len(script.calls), "each call was made once, preempted or not"
            elif event.status is RequestStatus.FAILED:
                assert self.runner.done[event.id] == script.fails_at + 1

    @invariant()
    def all_are_held_and_none_beyond_the_bounds(self):
        if not hasattr(self, "scheduler"):
            return
        load, stats = self.scheduler.load, self.scheduler.stats(self.runner.now)
        assert load.running <= self.places
        assert load.running + load.waiting == len(self.alive)
        assert stats.refused == self.refused
        assert 0.0 <= stats.wait < math.inf
        assert stats.wait == 0.0 or len(self.alive) >= self.places
        assert all(1 <= one.limit <= self.places for one in stats.keys)

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        for _ in range(1000):
            if not self.scheduler.has_work:
                break
            self.take(self.update(self.schedule()))
        assert not self.alive
        assert not self.runner.scripts, "the runner has dropped every state"
        assert len(self.ended) + self.refused == self.count


def machine(policy, whole):
    name = f"{'Request' if whole else 'Step'}{policy.capitalize()}"
    made = type(name, (SchedulerMachine,), {"policy": policy, "whole": whole}).TestCase
    made.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, phases=PHASES)
    return made


TestStepFifo, TestStepDrr, TestStepSrpt, TestStepEdf = (machine(policy, whole=False) for policy in POLICIES)
TestRequestFifo, TestRequestDrr, TestRequestSrpt, TestRequestEdf = (machine(policy, whole=True) for policy in POLICIES)


MAX_PRIORITY = 1
BETTER = st.builds(
    Script,
    steps=st.integers(1, 2),
    keys=st.sampled_from([("A",), ("B",)]),
    encodes=st.booleans(),
    decodes=st.booleans(),
)


@pytest.mark.parametrize("whole", [False, True], ids=["step mode", "request mode"])
@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=40, deadline=None)
@given(
    places=st.integers(1, 3),
    max_waiting=st.integers(0, 4),
    patient=st.builds(
        Script, steps=st.integers(1, 8), keys=st.just(("P",)), encodes=st.booleans(), decodes=st.booleans()
    ),
    priority=st.integers(-1, MAX_PRIORITY),
    tick=st.sampled_from([0.3, 1.0, 3.0]),
    stream=st.lists(st.tuples(BETTER, st.integers(0, MAX_PRIORITY)), min_size=1, max_size=5),
)
def test_none_starves_while_better_ones_keep_coming(
    whole, policy, places, max_waiting, patient, priority, tick, stream
):
    chosen = POLICIES[policy]()
    if whole:
        places = 1
    scheduler = RequestScheduler(chosen, max_waiting) if whole else StepScheduler(places, chosen, False, max_waiting)
    runner = ScriptedRunner(whole)
    scheduler.add_request(SchedulerRequest("patient", patient, priority, steps=patient.steps), 0.0)
    # Whoever comes later than this is of a lower class; and those that are held then make at most so many calls.
    outranked = AGING_SECONDS * (MAX_PRIORITY - priority + 1) + 1.0
    calls = (places + max_waiting) * 4 + len(patient.calls) + 2
    bound = int(outranked / tick) + 2 * calls + 2
    for turn in range(bound):
        now = turn * tick
        for number in range(places + max_waiting):  # as many as there is room for
            script, urgency = stream[(turn + number) % len(stream)]
            better = SchedulerRequest(f"{turn}-{number}", script, urgency, "", now + 100.0, script.steps)
            try:
                scheduler.add_request(better, now)
            except QueueFull:
                break
        scheduled = scheduler.schedule(now)
        events = scheduler.update_from_output(scheduled, runner.execute(scheduled))
        if any(isinstance(event, Finished) and event.id == "patient" for event in events):
            return
    raise AssertionError(f"the patient one had no end within {bound} turns")
