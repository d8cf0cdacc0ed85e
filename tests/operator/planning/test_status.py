"""The counts of a status, of a valid spec and of an invalid one; and no change if nothing changes."""

from dataclasses import replace
from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec, Problem
from omni_operator.planning.observed import Observed
from omni_operator.planning.status import accepted_status, rejected_status
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.edits import REMOVED, edited
from tests.operator.planning.observations import (
    DOWN,
    LATER,
    NO_GPU,
    UP,
    conditions,
    deployment,
    observed,
    pod,
    status_of,
)
from tests.operator.planning.test_ready import ROWS


def test_stages_are_counted(digits: dict[str, Any]) -> None:
    status = status_of(digits, observed(UP, deployment(1, 2), [pod(**NO_GPU)]))
    (stage,) = status["stages"]
    assert {key: stage[key] for key in ("name", "desired", "replicas", "ready", "updated")} == {
        "name": "painter",
        "desired": 2,
        "replicas": 2,
        "ready": 1,
        "updated": 2,
    }
    assert stage["reason"] == "Unschedulable"
    assert (status["replicas"], status["readyReplicas"], status["observedGeneration"]) == (2, 1, 1)
    assert status["selector"] == selector("digits", "painter")


def selector(pipeline: str, stage: str) -> str:
    return f"omnipipeline.dev/pipeline={pipeline},omnipipeline.dev/role=replica,omnipipeline.dev/stage={stage}"


# name: (edits of the pipeline with thinker and painter, the stage that an autoscaler of the pipeline sees)
SCALED: dict[str, tuple[dict[str, Any], str]] = {
    "both follow spec.replicas": ({"spec.stages.0.replicas": REMOVED, "spec.stages.1.replicas": REMOVED}, "painter"),
    "the first has a count of its own": ({"spec.stages.0.replicas": 4, "spec.stages.1.replicas": REMOVED}, "painter"),
    "the last has a count of its own": ({"spec.stages.0.replicas": REMOVED, "spec.stages.1.replicas": 4}, "thinker"),
    "the last is scaled by its load": (
        {"spec.stages.0.replicas": REMOVED, "spec.stages.1.replicas": REMOVED}
        | {"spec.stages.1.autoscaling": {"maxReplicas": 4}},
        "thinker",
    ),
    "none follows": ({"spec.stages.0.replicas": 1, "spec.stages.1.replicas": 2}, ""),
}


@pytest.mark.parametrize("row", SCALED)
def test_an_autoscaler_of_the_pipeline_sees_the_pods_of_one_stage_that_follows_it(
    two: dict[str, Any], row: str
) -> None:
    edits, stage = SCALED[row]
    pipeline = parse(edited(two, {"spec.replicas": 2, **edits}))
    topology = cluster_topology(pipeline)
    found = {process.name: deployment(process.copies, process.copies) for process in topology.processes}
    status = accepted_status(pipeline, topology, Observed(deployments=found, pods=[]), {}, LATER)
    counts = {process.stage.name: process.copies for process in topology.replicas}
    assert (status.replicas, status.selector) == (counts.get(stage, 0), selector("two", stage))
    assert status.pods == sum(counts.values())


@pytest.mark.parametrize("row", ROWS)
def test_the_same_observation_gives_the_same_status(digits: dict[str, Any], row: str) -> None:
    head, painters, pods, *_ = ROWS[row]
    first = status_of(digits, observed(head, painters, pods))
    assert status_of(digits, observed(head, painters, pods[::-1]), previous=first, now=LATER) == first


def test_an_invalid_spec_keeps_the_counts_and_names_the_field(digits: dict[str, Any]) -> None:
    before = status_of(digits, observed(UP, deployment(2, 2), []))
    with pytest.raises(InvalidSpec) as caught:
        parse(edited(digits, {"spec.head.stage": "nope"}))
    after = rejected_status(2, caught.value, before, LATER).model_dump(by_alias=True, mode="json", exclude_none=True)
    found = conditions(after)
    assert (after["observedGeneration"], after["readyReplicas"]) == (2, 2)
    assert found["Stalled"]["status"] == "True"
    assert (found["Accepted"]["status"], found["Accepted"]["reason"]) == ("False", "InvalidSpec")
    assert "spec.head.stage: 'nope' is not a stage" in found["Accepted"]["message"]
    assert found["Ready"]["status"] == "False"
    assert found["HeadReady"]["status"] == "True", "what ran before runs on"


def test_with_an_invalid_spec_the_status_counts_what_runs_by_the_last_valid_one(digits: dict[str, Any]) -> None:
    invalid = InvalidSpec([Problem("spec.head.stage", "'nope' is not a stage")])
    for ready in (2, 1, 0):
        found = replace(observed(UP if ready else DOWN, deployment(ready, 2), []), rejected=invalid)
        status = status_of(digits, found)
        told = conditions(status)
        assert (status["readyReplicas"], status["stages"][0]["ready"]) == (ready, ready)
        assert told["HeadReady"]["status"] == str(bool(ready))
        assert (told["Accepted"]["status"], told["Ready"]["reason"]) == ("False", "NotAccepted")
        assert (told["Stalled"]["status"], told["Reconciling"]["status"]) == ("True", "False")
        assert str(invalid) in told["Ready"]["message"]
