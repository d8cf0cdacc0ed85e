"""The counts of a status, of a valid spec and of an invalid one; and no change if nothing changes."""

from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from omni_operator.planning.status import rejected_status
from tests.operator.edits import edited
from tests.operator.planning.observations import LATER, NO_GPU, UP, conditions, deployment, observed, pod, status_of
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
    assert status["selector"] == "omnipipeline.dev/pipeline=digits,omnipipeline.dev/role=replica"


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
    assert (found["Accepted"]["status"], found["Accepted"]["reason"]) == ("False", "InvalidSpec")
    assert "spec.head.stage: 'nope' is not a stage" in found["Accepted"]["message"]
    assert found["Ready"]["status"] == "False"
    assert found["HeadReady"]["status"] == "True", "what ran before runs on"
