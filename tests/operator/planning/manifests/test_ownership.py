"""Which pipeline an object belongs to."""

from typing import Any

from omni_operator.planning.manifests.ownership import pipeline_of
from tests.operator.rendered import pod, rendered


def test_a_child_knows_its_pipeline_by_owner_and_a_pod_by_label(digits: dict[str, Any]) -> None:
    service = rendered(digits)["Service", "digits"]
    service["metadata"]["labels"] = {}
    assert pipeline_of(service) == "digits"
    replica = pod(digits)
    replica["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "digits-painter-x", "controller": True}]
    assert pipeline_of(replica) == "digits"
    assert pipeline_of({"kind": "Pod", "metadata": {"name": "stray"}}) is None
    assert pipeline_of(digits) == "digits", "a pipeline is its own"
