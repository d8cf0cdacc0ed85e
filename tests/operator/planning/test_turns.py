"""Which pipelines change at a time because the operator does, and which changes are the operator's."""

from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.planning.manifests import children
from omni_operator.planning.manifests.pod import Surroundings
from omni_operator.planning.plan import make_plan
from omni_operator.planning.topology.cluster import cluster_topology
from omni_operator.planning.turns import Turns, upgraded_deployments
from tests.operator.edits import edited

A, B, C, D = (("team-a", name) for name in "abcd")


def test_as_many_as_the_limit_have_a_turn_and_the_others_follow_in_order() -> None:
    turns = Turns(2)
    assert [turns.take(key) for key in (A, B, C, D)] == [True, True, False, False]
    assert turns.next() is None
    turns.end(A, is_upgraded=True)
    assert turns.next() == C
    assert not turns.take(D)
    assert turns.take(C)
    assert turns.take(B), "it has its turn still"
    assert not turns.take(D)


def test_a_pipeline_that_is_upgraded_never_waits_again() -> None:
    turns = Turns(1)
    turns.end(A, is_upgraded=True)
    assert turns.take(B)
    assert turns.take(A)
    assert not turns.has(A)


@pytest.mark.parametrize("leave", ["give up", "forget"])
def test_a_pipeline_that_cannot_change_or_is_gone_holds_up_nobody(leave: str) -> None:
    turns = Turns(1)
    assert turns.take(A)
    assert [turns.take(key) for key in (B, C)] == [False, False]
    for key in (B, A):  # one that waits, and the one that has the turn
        turns.end(key, is_upgraded=False) if leave == "give up" else turns.forget(key)
    assert turns.next() == C
    assert turns.take(C)
    assert not turns.take(A), "it starts again at the end"


# name: (generation that the status is about, edits of the pipeline, image of the operator, Deployments that wait)
ROWS: dict[str, tuple[int, dict[str, Any], str, set[str]]] = {
    "nothing changes": (1, {}, "worker:1", set()),
    "another default image": (1, {}, "worker:2", {"digits-head", "digits-painter"}),
    "the pipeline has an image of its own": (1, {"spec.image": {"name": "own:1"}}, "worker:2", set()),
    "its spec changes with the operator": (0, {}, "worker:2", set()),
    "it was never seen": (-1, {}, "worker:2", set()),
    "a stage is scaled meanwhile": (1, {"spec.stages.0.replicas": 5}, "worker:2", {"digits-head"}),
}


@pytest.mark.parametrize("row", ROWS)
def test_only_changes_of_the_operator_alone_wait(digits: dict[str, Any], row: str) -> None:
    observed, edits, image, waiting = ROWS[row]
    own = {key: value for key, value in edits.items() if key == "spec.image"}
    manifest = edited(digits, {"metadata.generation": 1, "status": {"observedGeneration": observed}})
    live = desired(edited(manifest, own), "worker:1")
    wanted = desired(edited(manifest, edits), image)
    uid = manifest["metadata"]["uid"]
    found = upgraded_deployments(manifest, make_plan(wanted, live, uid, "digits"), live)
    assert {child["metadata"]["name"] for child in found} == waiting


@pytest.mark.parametrize(("reason", "waits"), [("Rolling", False), ("WaitingForTurn", True)])
def test_a_pipeline_on_its_way_to_its_spec_waits_for_nobody(digits: dict[str, Any], reason: str, waits: bool) -> None:
    """Another process may have left the change unfinished."""
    progressing = {"type": "Progressing", "status": "True", "reason": reason}
    status = {"observedGeneration": 1, "conditions": [progressing]}
    manifest = edited(digits, {"metadata.generation": 1, "status": status})
    live = desired(manifest, "worker:1")
    plan = make_plan(desired(manifest, "worker:2"), live, manifest["metadata"]["uid"], "digits")
    assert bool(upgraded_deployments(manifest, plan, live)) is waits


def desired(manifest: dict[str, Any], image: str) -> list[Any]:
    pipeline = parse(manifest)
    return list(children(pipeline, cluster_topology(pipeline), Surroundings(image), "secret"))
