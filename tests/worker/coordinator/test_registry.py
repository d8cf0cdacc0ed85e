"""Membership as a pure state machine: who is listed, in which state, under which id."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_worker.coordinator.hub import View
from omni_worker.coordinator.messages import Delta, Heartbeat, Load, Register, Snapshot, State, Update
from omni_worker.coordinator.registry import FORGET_AFTER, Refusal, Registry
from omni_worker.requests import ModelCard

TIMEOUT = 30.0
CARD = ModelCard(pipeline="P", mode="step")


def make() -> Registry:
    return Registry(frozenset({0, 1}), "digest", TIMEOUT)


def hello(uid="u", stage=0, address=None, digest="digest"):
    return Register(
        stage_id=stage, uid=uid, address=address or f"tcp://{uid}:1", engine="diffusion", digest=digest, card=CARD
    )


def join(registry, uid="u", now=0.0, stage=0, address=None):
    replica, _ = registry.register(hello(uid, stage, address), now)
    registry.report(update(replica, State.UP), now)
    return replica


def update(replica, state):
    return Update(stage_id=replica.stage_id, replica_id=replica.replica_id, uid=replica.uid, state=state)


def beat(replica, **load):
    return Heartbeat(stage_id=replica.stage_id, replica_id=replica.replica_id, uid=replica.uid, load=Load(**load))


def states(registry):
    return {replica.uid: replica.state for replica in registry.replicas}


def test_a_replica_starts_and_comes_up():
    registry = make()
    replica, changed = registry.register(hello(), 0.0)
    assert [(one.replica_id, one.state) for one in changed] == [(0, State.STARTING)]
    assert [one.state for one in registry.report(update(replica, State.UP), 1.0)] == [State.UP]


def test_silence_makes_an_error_and_a_heartbeat_heals_it():
    registry = make()
    replica = join(registry)
    assert registry.sweep(TIMEOUT) == []
    assert [one.state for one in registry.sweep(TIMEOUT + 1)] == [State.ERROR]
    assert [one.state for one in registry.report(beat(replica), TIMEOUT + 2)] == [State.UP]


def test_a_heartbeat_carries_the_load_and_the_liveness():
    registry = make()
    replica = join(registry)
    (changed,) = registry.report(beat(replica, queue_length=7), TIMEOUT - 1)
    assert changed.load.queue_length == 7
    assert registry.sweep(TIMEOUT + 1) == []


def test_a_draining_replica_that_was_cut_off_does_not_come_back_up():
    registry = make()
    replica = join(registry)
    registry.report(update(replica, State.DRAINING), 1.0)
    registry.lost(replica.key, replica.uid)
    registry.report(beat(replica), 2.0)
    assert states(registry) == {"u": State.DRAINING}


def test_one_that_leaves_frees_its_id_for_the_next():
    registry = make()
    first, second = join(registry, "a"), join(registry, "b")
    registry.report(update(first, State.DOWN), 1.0)
    assert join(registry, "c").replica_id == first.replica_id
    assert second.replica_id == 1


def test_the_silent_are_forgotten_in_the_end():
    registry = make()
    join(registry)
    (gone,) = registry.sweep(TIMEOUT * FORGET_AFTER + 1)
    assert gone.state is State.DOWN
    assert registry.replicas == []


def test_registering_again_keeps_the_id():
    registry = make()
    join(registry, "a")
    second = join(registry, "b")
    assert join(registry, "b", now=5.0).replica_id == second.replica_id


def test_a_new_process_at_an_old_address_takes_its_place():
    registry = make()
    join(registry, "old", address="tcp://h:1")
    replica, changed = registry.register(hello("new", address="tcp://h:1"), 1.0)
    assert [(one.uid, one.state) for one in changed] == [("old", State.DOWN), ("new", State.STARTING)]
    assert replica.replica_id == 0


def test_ids_stay_bounded_over_a_thousand_restarts():
    registry = make()
    join(registry, "steady")
    for i in range(1000):
        replica = join(registry, f"r{i}", now=i)
        assert replica.replica_id == 1
        registry.report(update(replica, State.DOWN), i)


def test_a_report_of_a_stranger_is_told_to_register_again():
    registry = make()
    replica = join(registry)
    assert make().report(beat(replica), 0.0) is None
    stranger = Heartbeat(stage_id=0, replica_id=0, uid="another")
    assert registry.report(stranger, 0.0) is None


@pytest.mark.parametrize(
    ("message", "says"),
    [
        pytest.param(hello(digest="other"), "another model", id="a wrong model"),
        pytest.param(hello(stage=7), "no stage 7", id="an unknown stage"),
    ],
)
def test_a_registration_is_refused_with_a_reason(message, says):
    with pytest.raises(Refusal, match=says):
        make().register(message, 0.0)


def test_a_hub_that_missed_a_delta_asks_for_a_snapshot_and_has_it_right_again():
    view = View()
    replica = join(make())
    assert view.apply(Delta(incarnation="i", sequence=1, replica=replica)) is None
    assert view.apply(Snapshot(incarnation="i", sequence=1, replicas=[replica])) == [replica]
    assert view.apply(Delta(incarnation="i", sequence=1, replica=replica)) == []
    assert view.apply(Delta(incarnation="i", sequence=3, replica=replica)) is None


operations = st.lists(
    st.tuples(
        st.sampled_from(["join", "up", "drain", "down", "beat", "lost", "sweep", "snapshot"]),
        st.sampled_from("abcd"),
        st.floats(0, 40),
    ),
    max_size=60,
)


@given(operations)
def test_a_hub_sees_what_the_registry_has_after_any_history(history):
    registry, view, now, sequence = make(), View(), 0.0, 0
    view.apply(Snapshot(incarnation="i", sequence=0, replicas=[]))
    known = {}
    for operation, uid, pause in history:
        now += pause
        changed = []
        if operation == "join":
            known[uid], changed = registry.register(hello(uid), now)
        elif operation == "sweep":
            changed = registry.sweep(now)
        elif uid in known and operation == "lost":
            changed = registry.lost(known[uid].key, uid)
        elif uid in known and operation == "beat":
            changed = registry.report(beat(known[uid]), now) or []
        elif uid in known and operation in ("up", "drain", "down"):
            state = {"up": State.UP, "drain": State.DRAINING, "down": State.DOWN}[operation]
            changed = registry.report(update(known[uid], state), now) or []
        for replica in changed:
            sequence += 1
            assert view.apply(Delta(incarnation="i", sequence=sequence, replica=replica)) is not None
        ids = [replica.replica_id for replica in registry.replicas]
        assert len(ids) == len(set(ids))
        assert max(ids, default=0) < 4
        assert sorted(view.replicas) == [replica.key for replica in registry.replicas]
        assert list(map(view.replicas.get, sorted(view.replicas))) == registry.replicas
