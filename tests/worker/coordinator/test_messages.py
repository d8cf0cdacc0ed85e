"""How replicas are encoded in publications."""

from omni_worker.coordinator.messages import ReplicaTable

from .builders import add_replica, make_registry


def test_a_card_that_many_share_goes_once():
    registry = make_registry()
    for number in range(5):
        add_replica(registry, f"u{number}")
    roll = ReplicaTable.of(registry.replicas)
    assert len(roll.cards) == 1
    assert roll.replicas == registry.replicas
