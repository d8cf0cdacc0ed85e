"""How many replicas the draining of nodes may take."""

from typing import Any

import pytest

from tests.operator.edits import edited
from tests.operator.rendered import pod, rendered

# Draining a node may remove as many pods as a rollout may, and at least one.
BUDGETS: dict[str, tuple[dict[str, Any], int | str]] = {
    "one where nothing is said": ({}, 1),
    "as many as a rollout may take": ({"spec.stages.0.rollout": {"maxUnavailable": "25%"}}, "25%"),
    "one even where a rollout only surges": ({"spec.stages.0.rollout": {"maxUnavailable": 0, "maxSurge": 1}}, 1),
    "one even of a percentage of nothing": ({"spec.stages.0.rollout": {"maxUnavailable": "0%", "maxSurge": 1}}, 1),
}


@pytest.mark.parametrize("row", BUDGETS)
def test_the_draining_of_nodes_takes_so_many_replicas(digits: dict[str, Any], row: str) -> None:
    edits, unavailable = BUDGETS[row]
    spec = rendered(edited(digits, edits))["PodDisruptionBudget", "digits-painter"]["spec"]
    assert spec["maxUnavailable"] == unavailable
    assert spec["selector"]["matchLabels"].items() <= pod(digits)["metadata"]["labels"].items()
    assert not spec["selector"]["matchLabels"].items() <= pod(digits, "digits-head")["metadata"]["labels"].items()
