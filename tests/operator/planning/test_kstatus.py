"""What kstatus, by which Flux and kpt wait, makes of a pipeline: it is current only when it serves as its spec says."""

from collections.abc import Mapping
from typing import Any

import pytest

from omni_operator.crd.problems import InvalidSpec, Problem
from omni_operator.crd.schema import version
from omni_operator.planning.observed import Failure
from omni_operator.planning.status import rejected_status
from tests.operator.edits import edited
from tests.operator.planning.observations import NOW, UP, deployment, observed, status_of
from tests.operator.planning.test_ready import ROWS

CURRENT, IN_PROGRESS, FAILED = "Current", "InProgress", "Failed"
STUCK = ("ImagePullBackOff", "CrashLoopBackOff", "CreateContainerConfigError", "PodsRefused", "DeadlineExceeded")


def kstatus(generation: int, status: Mapping[str, Any]) -> str:
    """The rules of sigs.k8s.io/cli-utils/pkg/kstatus for a kind that it does not know."""
    if status.get("observedGeneration", generation) != generation:
        return IN_PROGRESS
    found = {condition["type"]: condition["status"] for condition in status.get("conditions", [])}
    if found.get("Reconciling") == "True":
        return IN_PROGRESS
    if found.get("Stalled") == "True":
        return FAILED
    return CURRENT if found.get("Ready", "True") == "True" else IN_PROGRESS


def test_a_new_object_is_not_current() -> None:
    default = version()["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]
    assert kstatus(1, default) == IN_PROGRESS


@pytest.mark.parametrize("row", ROWS)
def test_it_is_current_when_it_is_ready_and_has_failed_when_a_person_must_act(digits: dict[str, Any], row: str) -> None:
    head, painters, pods, is_ready, _, _, _, progress = ROWS[row]
    status = status_of(digits, observed(head, painters, pods))
    expected = CURRENT if is_ready else FAILED if progress in STUCK else IN_PROGRESS
    assert kstatus(1, status) == expected
    assert kstatus(2, status) == IN_PROGRESS, "an edit that the operator has not seen"


# name: (why an object could not be created, what it is)
FAILURES: dict[str, tuple[Failure, str]] = {
    "its name is somebody else's": (Failure("NameConflict", "Service digits exists and is not ours"), FAILED),
    "it is not allowed": (Failure("Forbidden", "Service digits cannot be made"), FAILED),
    "the server is busy": (Failure("InternalError", "a webhook does not answer", is_transient=True), IN_PROGRESS),
    "a minor kind": (Failure("Forbidden", "PodMonitor digits cannot be made", is_minor=True), CURRENT),
}


@pytest.mark.parametrize("row", FAILURES)
def test_what_the_server_refuses_has_failed_unless_it_may_pass(digits: dict[str, Any], row: str) -> None:
    failure, expected = FAILURES[row]
    assert kstatus(1, status_of(digits, observed(UP, deployment(2, 2), [], (failure,)))) == expected


@pytest.mark.parametrize("switch", ["suspend", "paused"])
def test_one_that_is_suspended_never_fails(digits: dict[str, Any], switch: str) -> None:
    found = status_of(edited(digits, {f"spec.{switch}": True}), observed(deployment(0, 0), deployment(0, 0), []))
    assert kstatus(1, found) == IN_PROGRESS


def test_an_invalid_spec_has_failed() -> None:
    invalid = InvalidSpec([Problem("spec.head.stage", "'nope' is not a stage")])
    status = rejected_status(3, invalid, {"observedGeneration": -1}, NOW)
    assert kstatus(3, status.model_dump(by_alias=True, mode="json", exclude_none=True)) == FAILED
