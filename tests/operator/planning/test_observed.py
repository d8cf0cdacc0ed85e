"""The troubles of a Deployment itself, and which of its pods that failed still matter."""

from typing import Any

import pytest

from omni_operator.planning.observed import deployment_troubles, without_replaced
from tests.operator.planning.observations import SERVING, pod

QUOTA = 'pods "digits-painter-6d-" is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1'


def test_a_quota_speaks_through_the_deployment() -> None:
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": QUOTA}
    available = {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "message": "m"}
    (trouble,) = deployment_troubles({"status": {"conditions": [available, refused]}})
    assert (trouble.reason, trouble.needs_a_person) == ("PodsRefused", True)
    assert QUOTA in trouble.message


def test_a_quota_that_was_lifted_says_nothing_more() -> None:
    lifted = {"type": "ReplicaFailure", "status": "False", "reason": "FailedCreate", "message": QUOTA}
    assert list(deployment_troubles({"status": {"conditions": [lifted]}})) == []


def made(minute: int, name: str, **status: Any) -> dict[str, Any]:
    one = pod(name, **status)
    one["metadata"]["creationTimestamp"] = f"2026-01-01T00:{minute:02}:00Z"
    return one


def failed(minute: int) -> dict[str, Any]:
    return made(minute, f"failed-{minute}", phase="Failed", reason="UnexpectedAdmissionError")


STARTING = made(9, "starting", phase="Pending")
# name: (the pods of a Deployment, the failed ones that matter)
FAILED: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "none": ([STARTING], []),
    "one failed, and all others serve": ([failed(1), made(0, "a", **SERVING), made(2, "b", **SERVING)], []),
    "one failed long ago, and there is a plain scale-up": ([failed(1), made(2, "b", **SERVING), STARTING], []),
    "one failed, and its replacement starts": ([failed(1), made(0, "a", **SERVING), STARTING], []),
    "one failed, and no other pod is known": ([failed(1)], []),
    "the replacement failed too": ([failed(1), failed(2), made(0, "a", **SERVING), STARTING], ["failed-2"]),
    "each replacement fails": ([failed(1), failed(2), failed(3), STARTING], ["failed-2", "failed-3"]),
    "two failed, and a younger one serves": ([failed(1), failed(2), made(3, "b", **SERVING), STARTING], []),
    "one failed long ago, and one of those that served since": (
        [failed(1), made(2, "b", **SERVING), failed(5), STARTING],
        [],
    ),
    "all of a node failed at once": ([failed(1), failed(1), STARTING], []),
}


@pytest.mark.parametrize("row", FAILED)
def test_a_pod_that_failed_matters_only_if_its_replacement_failed_too(row: str) -> None:
    pods, expected = FAILED[row]
    relevant = [one["metadata"]["name"] for one in without_replaced(pods)]
    assert [name for name in relevant if name.startswith("failed")] == expected
    assert [name for name in relevant if not name.startswith("failed")] == [
        name for one in pods if not (name := one["metadata"]["name"]).startswith("failed")
    ]
