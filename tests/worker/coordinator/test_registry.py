"""The registry as a pure state machine: its replicas, their states and their ids."""

import pytest

from omni_worker.coordinator.messages import ReplicaState
from omni_worker.coordinator.registry import FORGET_AFTER_TIMEOUTS, RegistrationError, Unfit

from .builders import TIMEOUT, add_replica, make_registry, registration, report_of


def states(registry):
    return {replica.uid: replica.state for replica in registry.replicas}


def test_a_replica_starts_and_comes_up():
    registry = make_registry()
    replica, changed = registry.register(registration(), 0.0)
    assert [(one.replica_id, one.state) for one in changed] == [(0, ReplicaState.STARTING)]
    assert [one.state for one in registry.report(report_of(replica), 1.0)] == [ReplicaState.UP]


def test_silence_makes_an_error_and_a_heartbeat_heals_it():
    registry = make_registry()
    replica = add_replica(registry)
    assert registry.check_silence(TIMEOUT) == []
    assert [one.state for one in registry.check_silence(TIMEOUT + 1)] == [ReplicaState.ERROR]
    assert [one.state for one in registry.report(report_of(replica), TIMEOUT + 2)] == [ReplicaState.UP]


def test_our_own_absence_is_nobodys_silence():
    registry = make_registry()
    add_replica(registry)
    registry.excuse_silence(2 * TIMEOUT)
    assert registry.check_silence(2 * TIMEOUT + 1) == []


def test_a_heartbeat_carries_the_load_and_the_liveness():
    registry = make_registry()
    replica = add_replica(registry)
    assert registry.report(report_of(replica, queue_length=7), TIMEOUT - 1) == []
    assert [(new.replica_id, new.load.queue_length) for new in registry.pop_load_updates()] == [(0, 7)]
    assert registry.replicas[0].load.queue_length == 7
    assert registry.pop_load_updates() == [], "each is taken once"
    assert registry.check_silence(TIMEOUT + 1) == []


def test_a_load_that_barely_changed_is_no_news():
    registry = make_registry()
    replica = add_replica(registry, step_ms=10.0)
    registry.pop_load_updates()
    registry.report(report_of(replica, step_ms=10.4), 1.0)
    assert registry.pop_load_updates() == []
    registry.report(report_of(replica, step_ms=11.5), 2.0)
    assert [new.load.step_ms for new in registry.pop_load_updates()] == [11.5]


@pytest.mark.parametrize("late", [ReplicaState.UP, ReplicaState.STARTING])
def test_a_draining_replica_never_comes_back_up(late):
    registry = make_registry()
    replica = add_replica(registry)
    registry.report(report_of(replica, ReplicaState.DRAINING), 1.0)
    registry.on_disconnect(replica.key, replica.uid)
    registry.report(report_of(replica, late), 2.0)
    assert states(registry) == {"u": ReplicaState.DRAINING}
    registry.register(registration(), 3.0)
    assert states(registry) == {"u": ReplicaState.DRAINING}, "nor does it by registering again"


def test_a_report_that_comes_twice_or_late_is_void():
    registry = make_registry()
    replica = add_replica(registry)
    first, second = report_of(replica, queue_length=1), report_of(replica, queue_length=2)
    for message in (second, first, second):
        registry.report(message, 1.0)
    assert registry.replicas[0].load.queue_length == 2
    registry.check_silence(TIMEOUT + 2)
    registry.report(second, TIMEOUT + 3)
    assert states(registry) == {"u": ReplicaState.ERROR}, "an old message is no sign of life"


def test_one_that_left_comes_back_neither_by_a_late_report_nor_by_a_late_registration():
    registry = make_registry()
    greeting = registration()
    replica, _ = registry.register(greeting, 0.0)
    late = report_of(replica)
    registry.report(report_of(replica, ReplicaState.DOWN), 1.0)
    assert registry.report(late, 1.0) is None
    with pytest.raises(RegistrationError, match="overtaken") as caught:
        registry.register(greeting, 1.0)
    assert not isinstance(caught.value, Unfit)
    assert registry.replicas == []
    assert registry.report(report_of(replica, ReplicaState.DOWN), 2.0) == [], "to leave twice is no error"


def test_one_that_leaves_frees_its_id_for_the_next():
    registry = make_registry()
    first, second = add_replica(registry, "a"), add_replica(registry, "b")
    registry.report(report_of(first, ReplicaState.DOWN), 1.0)
    assert add_replica(registry, "c").replica_id == first.replica_id
    assert second.replica_id == 1


def test_the_silent_are_forgotten_in_the_end_and_may_register_again():
    registry = make_registry()
    add_replica(registry)
    (gone,) = registry.check_silence(TIMEOUT * FORGET_AFTER_TIMEOUTS + 1)
    assert gone.state is ReplicaState.DOWN
    assert registry.replicas == []
    assert add_replica(registry, now=TIMEOUT * FORGET_AFTER_TIMEOUTS + 2).replica_id == 0


def test_registering_again_keeps_the_id_and_the_state_and_may_bring_a_new_address():
    registry = make_registry()
    add_replica(registry, "a")
    second = add_replica(registry, "b")
    again, changed = registry.register(registration("b", address="tcp://elsewhere:1"), 5.0)
    assert (again.replica_id, again.state) == (second.replica_id, ReplicaState.UP)
    assert [one.address for one in changed] == ["tcp://elsewhere:1"]


def test_a_new_process_at_an_old_address_takes_its_place():
    registry = make_registry()
    add_replica(registry, "old", address="tcp://h:1")
    replica, changed = registry.register(registration("new", address="tcp://h:1"), 1.0)
    assert [(one.uid, one.state) for one in changed] == [("old", ReplicaState.DOWN), ("new", ReplicaState.STARTING)]
    assert replica.replica_id == 0


def test_ids_and_memory_stay_bounded_over_a_thousand_restarts():
    registry = make_registry()
    steady = add_replica(registry, "steady")
    for i in range(1000):
        replica = add_replica(registry, f"r{i}", now=i)
        assert replica.replica_id == 1
        registry.report(report_of(replica, ReplicaState.DOWN), i)
        registry.report(report_of(steady), i)
        registry.check_silence(i)
    assert len(registry._departed) <= TIMEOUT * FORGET_AFTER_TIMEOUTS + 1


def test_a_report_of_a_stranger_is_told_to_register_again():
    registry = make_registry()
    replica = add_replica(registry)
    assert make_registry().report(report_of(replica), 0.0) is None
    assert registry.report(report_of(replica, uid="another"), 0.0) is None


@pytest.mark.parametrize(
    ("message", "says"),
    [
        pytest.param(registration(digest="other"), "another model.*stage 0", id="a wrong model"),
        pytest.param(registration(stage=1, digest="digest"), "another model.*stage 1", id="the model of another stage"),
        pytest.param(registration(stage=7), "no stage 7", id="an unknown stage"),
        pytest.param(
            registration(engine="autoregressive"), "engine is 'autoregressive'.*'diffusion'", id="a wrong engine"
        ),
    ],
)
def test_a_registration_is_refused_with_a_reason(message, says):
    with pytest.raises(Unfit, match=says):
        make_registry().register(message, 0.0)


def test_a_refusal_does_not_name_the_digest_with_which_a_stranger_could_register():
    with pytest.raises(RegistrationError) as caught:
        make_registry().register(registration(stage=1, digest="digest"), 0.0)
    assert "other digest" not in str(caught.value)
