"""Settings that cannot have an effect, as the condition Accepted reports them."""

from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.planning.without_effect import without_effect
from tests.operator.crd.manifest_parts import EXTERNAL
from tests.operator.edits import edited
from tests.operator.planning.observations import UP, conditions, deployment, observed, status_of

CLIENTS = {"clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
# name: (edits, part of the message; empty if every setting has an effect)
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "a count that a stage follows": ({"spec.replicas": 5}, ""),
    "a count that no stage follows": (
        {"spec.replicas": 5, "spec.stages.0.replicas": 1},
        "spec.replicas is 5 and has no effect, because every stage has a count of its own",
    ),
    "a count, and a stage that scales by its load": (
        {"spec.replicas": 5, "spec.stages.0.autoscaling": {"maxReplicas": 8}},
        "spec.replicas is 5 and has no effect",
    ),
    "the default count, which no stage follows": ({"spec.replicas": 1, "spec.stages.0.replicas": 2}, ""),
    "a model of nothing but servers": (
        {"spec.replicas": 5, "spec.stages": [EXTERNAL], "spec.head": {}},
        "spec.replicas is 5 and has no effect, because every stage is a server elsewhere; spec.model is builtin://digits"
        " and has no effect, because every stage is a server elsewhere",
    ),
    "clients that are admitted": ({"spec.networkPolicy": CLIENTS}, ""),
    "clients without a policy": (
        {"spec.networkPolicy": {**CLIENTS, "mode": "none"}},
        "spec.networkPolicy.clients has no effect, because spec.networkPolicy.mode is none",
    ),
}


@pytest.mark.parametrize("row", SETTINGS)
def test_what_has_no_effect_is_reported(digits: dict[str, Any], row: str) -> None:
    edits, message = SETTINGS[row]
    manifest = edited(digits, edits)
    accepted = conditions(status_of(manifest, observed(UP, deployment(1, 1), [])))["Accepted"]
    assert (accepted["status"], accepted["reason"]) == ("True", "Valid")
    assert accepted["message"].startswith("the spec is valid")
    assert message in accepted["message"]
    assert bool(list(without_effect(parse(manifest)))) == bool(message)


def test_a_pipeline_that_is_paused_and_suspended_does_not_promise_an_end(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.paused": True, "spec.suspend": True})
    suspended = conditions(status_of(manifest, observed(UP, deployment(1, 1), [])))["Suspended"]
    assert (suspended["status"], suspended["reason"]) == ("False", "Paused")
    assert "nothing ends them while spec.paused is true" in suspended["message"]
