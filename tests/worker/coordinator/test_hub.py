"""How a hub applies publications."""

from omni_worker.coordinator.hub import MembershipView
from omni_worker.coordinator.messages import Delta, LoadUpdate, ReplicaTable, Snapshot

from .builders import add_replica, make_registry, report_of


def test_a_hub_that_missed_a_delta_asks_for_a_snapshot_and_has_it_right_again():
    view = MembershipView()
    roll = ReplicaTable.of([add_replica(make_registry())])
    assert view.apply(Delta(incarnation="i", sequence=1, changed=roll)) is None
    assert view.apply(Snapshot(incarnation="i", sequence=1, all=roll)) == roll.replicas
    assert view.apply(Delta(incarnation="i", sequence=1, changed=roll)) == []
    assert view.apply(Delta(incarnation="i", sequence=2)) == []
    assert view.apply(Delta(incarnation="i", sequence=4)) is None
    assert view.apply(Delta(incarnation="another", sequence=3)) is None


def test_a_hub_takes_loads_of_those_it_knows():
    view, registry = MembershipView(), make_registry()
    replica = add_replica(registry)
    view.apply(Snapshot(incarnation="i", sequence=0, all=ReplicaTable.of([replica])))
    registry.report(report_of(replica, queue_length=3), 1.0)
    (changed,) = view.apply(
        Delta(incarnation="i", sequence=1, loads=[*registry.pop_load_updates(), LoadUpdate(0, 99, replica.load)])
    )
    assert (changed.uid, changed.load.queue_length) == ("u", 3)
