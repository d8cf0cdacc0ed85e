"""The registry and the views of hubs stay correct if messages arrive twice, late and in any order."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from omni_worker.coordinator.hub import MembershipView
from omni_worker.coordinator.messages import (
    Delta,
    Register,
    ReplicaState,
    ReplicaTable,
    Snapshot,
    decode_publication,
    decode_register,
    decode_report,
    encode,
)
from omni_worker.coordinator.registry import FORGET_AFTER_TIMEOUTS, RegistrationError

from .builders import TIMEOUT, make_registry, registration, report_of

PROCESSES = "abc"


class Process:
    """A replica's process: its state only moves forward, and it numbers its messages."""

    def __init__(self, uid):
        self.uid, self.state, self.id, self.number = uid, ReplicaState.STARTING, None, 0

    def next(self):
        self.number += 1
        return self.number


class Membership(RuleBasedStateMachine):
    """Processes, a network that delays, repeats and reorders messages, a registry and two hubs.

    One hub gets every publication, the other misses some.
    """

    def __init__(self):
        super().__init__()
        self.registry, self.now, self.sequence = make_registry(), 0.0, 0
        self.processes, self.addresses, self.started = {}, {}, 0
        self.network = []
        self.faithful, self.lossy, self.has_gap = MembershipView(), MembershipView(), False
        self.said = {}  # uid -> the furthest state of it that was seen
        self.newest = {}  # uid -> number and load of the newest report of it that arrived
        self.left, self.said_down = set(), set()
        for view in (self.faithful, self.lossy):
            view.apply(Snapshot(incarnation="i", sequence=0, all=ReplicaTable.of([])))

    # ---- what processes do

    @rule(uid=st.sampled_from(PROCESSES), same_address=st.booleans(), at_once=st.booleans())
    def start(self, uid, same_address, at_once):
        self.started += 1
        process = self.processes[uid] = Process(f"{uid}-{self.started}")
        self.addresses[process.uid] = f"tcp://{uid if same_address else process.uid}:1"
        self._greet(process)
        if at_once:
            self._deliver(-1, keep=True)

    @precondition(lambda self: self._registered())
    @rule(data=st.data(), forward=st.booleans(), queue=st.integers(0, 3))
    def say(self, data, forward, queue):
        process = data.draw(st.sampled_from(self._registered()))
        if forward and process.state is not ReplicaState.DRAINING:
            process.state = list(ReplicaState)[list(ReplicaState).index(process.state) + 1]
        self._say(process, queue)

    @precondition(lambda self: self._registered())
    @rule(data=st.data())
    def leave(self, data):
        process = data.draw(st.sampled_from(self._registered()))
        process.state = ReplicaState.DOWN
        self._say(process, 0)
        self.processes = {uid: one for uid, one in self.processes.items() if one is not process}

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def register_again(self, data):
        self._greet(data.draw(st.sampled_from(list(self.processes.values()))))

    def _registered(self):
        return [one for one in self.processes.values() if one.id is not None]

    def _greet(self, process):
        self._send(registration(process.uid, address=self.addresses[process.uid], number=process.next()))

    def _say(self, process, queue):
        self._send(report_of(process.id, process.state, number=process.next(), queue_length=queue))

    # ---- what the network does

    def _send(self, message):
        self.network.append((self.now, message))

    @precondition(lambda self: self.network)
    @rule(data=st.data())
    def deliver(self, data):
        for at, keep in data.draw(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=8)):
            if self.network:
                self._deliver(at % len(self.network), keep)

    def _deliver(self, at, keep):
        _, message = self.network[at] if keep else self.network.pop(at)
        if isinstance(message, Register):
            self._register(decode_register(encode(message)))
        else:
            self._report(decode_report(encode(message)))

    def _register(self, message):
        was_there = any(one.uid == message.uid for one in self.registry.replicas)
        try:
            replica, changed = self.registry.register(message, self.now)
        except RegistrationError:
            assert message.uid in self.left, "only what was overtaken is refused here"
            return
        if not was_there:
            taken = [one.replica_id for one in self.registry.replicas if one.uid != message.uid]
            assert replica.replica_id == min(set(range(len(taken) + 1)) - set(taken)), "the lowest free id"
            self.said[message.uid] = ReplicaState.STARTING
            self.newest[message.uid] = message.count, 0
            self.left.discard(message.uid)
        number, load = self.newest[message.uid]
        self.newest[message.uid] = max(number, message.count), load
        for process in self.processes.values():
            if process.uid == message.uid:
                process.id = replica
        self._publish(changed)

    def _report(self, message):
        key = message.stage_id, message.replica_id
        if any((one.uid, one.key) == (message.uid, key) for one in self.registry.replicas):
            self.newest[message.uid] = max(
                self.newest[message.uid], (message.count, message.load.queue_length), key=lambda pair: pair[0]
            )
            if message.state is ReplicaState.DOWN:
                self.said_down.add(message.uid)
        changed = self.registry.report(message, self.now)
        self._publish(changed or [])

    @precondition(lambda self: self._registered())
    @rule(data=st.data())
    def connection_lost(self, data):
        process = data.draw(st.sampled_from(self._registered()))
        self._publish(self.registry.on_disconnect(process.id.key, process.uid))

    @rule(seconds=st.sampled_from([1.0, TIMEOUT + 1, TIMEOUT * FORGET_AFTER_TIMEOUTS + 1]))
    def sweep(self, seconds):
        self.now += seconds
        self.network = [(at, one) for at, one in self.network if self.now - at <= TIMEOUT * FORGET_AFTER_TIMEOUTS]
        self._publish(self.registry.check_silence(self.now))

    # ---- what the hubs get

    def _publish(self, changed):
        for replica in changed:
            if replica.state is ReplicaState.DOWN:
                self.left.add(replica.uid)
        self.sequence += 1
        delta = Delta(
            incarnation="i",
            sequence=self.sequence,
            changed=ReplicaTable.of(changed),
            loads=self.registry.pop_load_updates(),
        )
        delta = decode_publication(encode(delta))
        assert self.faithful.apply(delta) is not None
        if not self.has_gap:
            self.lossy.apply(delta)
        else:
            assert self.lossy.apply(delta) is None, "a gap is noticed by the next delta"

    @rule()
    def a_publication_is_lost(self):
        self.sequence += 1
        self.faithful.apply(Delta(incarnation="i", sequence=self.sequence))
        self.has_gap = True

    @rule()
    def a_snapshot_comes(self):
        self._publish([])
        snapshot = Snapshot(incarnation="i", sequence=self.sequence, all=ReplicaTable.of(self.registry.replicas))
        for view in (self.faithful, self.lossy):
            view.apply(decode_publication(encode(snapshot)))
        self.has_gap = False
        assert list(self.lossy.replicas.values()) == self.registry.replicas

    # ---- what always holds

    @invariant()
    def ids_and_addresses_are_unique_and_bounded(self):
        replicas = self.registry.replicas
        for values in (
            [one.replica_id for one in replicas],
            [one.address for one in replicas],
            [one.uid for one in replicas],
        ):
            assert len(values) == len(set(values))

    @invariant()
    def a_process_only_goes_forward(self):
        order = {ReplicaState.STARTING: 0, ReplicaState.UP: 1, ReplicaState.DRAINING: 2}
        for replica in self.registry.replicas:
            if replica.state is not ReplicaState.ERROR:
                assert order[replica.state] >= order[self.said[replica.uid]]
                self.said[replica.uid] = replica.state

    @invariant()
    def the_newest_load_stands_and_who_left_stays_away(self):
        for replica in self.registry.replicas:
            assert replica.load.queue_length == self.newest[replica.uid][1]
            assert replica.uid not in self.said_down

    @invariant()
    def a_hub_that_missed_nothing_sees_what_the_registry_has(self):
        if not self.registry._changed_loads:
            assert sorted(self.faithful.replicas.values(), key=lambda one: one.key) == self.registry.replicas

    def teardown(self):
        self.a_snapshot_comes()
        self.sweep(TIMEOUT * FORGET_AFTER_TIMEOUTS + 1)
        self.sweep(TIMEOUT * FORGET_AFTER_TIMEOUTS + 1)
        assert self.registry.replicas == []
        assert not self.registry._departed, "nothing is remembered for ever"
        assert not self.faithful.replicas


Membership.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestMembership = Membership.TestCase
