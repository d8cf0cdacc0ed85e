"""Facts that follow from a topology."""

from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.edits import edited
from tests.operator.planning.topology.layouts import locally

UNASKED = {
    "all have replicas": ({}, ()),
    "one has none": ({"spec.stages.0.replicas": 0}, ("thinker",)),
    "none has any": ({"spec.stages.0.replicas": 0, "spec.stages.1.replicas": 0}, ("thinker", "painter")),
    "the head has the only ones": (
        {"spec.stages.1.replicas": 0, "spec.head": {"stage": "painter", "localReplicas": 1}},
        (),
    ),
}


@pytest.mark.parametrize("row", UNASKED)
def test_stages_of_which_no_replica_is_asked_for(two: dict[str, Any], row: str) -> None:
    edits, expected = UNASKED[row]
    assert cluster_topology(parse(edited(two, edits))).stages_without_replicas == expected
    assert locally(edited(two, edits)).stages_without_replicas == expected
