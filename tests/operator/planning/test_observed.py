"""The troubles of a Deployment itself."""

from omni_operator.planning.observed import deployment_troubles

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
