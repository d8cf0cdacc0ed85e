"""The devices of a pod: counted as an extended resource, or claimed."""

from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.planning.cluster_features import missing_device_claims
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.edits import edited
from tests.operator.rendered import container, pod, rendered

TWO_OF_A_CLASS = {"spec.stages.0.accelerator": {"deviceClassName": "gpu.nvidia.com", "count": 2}}
TWO_OF_A_CLASS |= {"spec.stages.0.parallelism.cfg": 2}
BY_TEMPLATE = {"spec.stages.0.accelerator": {"resourceClaimTemplateName": "one-gpu"}}


def templates(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: child for (kind, name), child in rendered(manifest).items() if kind == "ResourceClaimTemplate"}


def claims(manifest: dict[str, Any], name: str = "digits-painter") -> list[tuple[str, str]]:
    """The claims of a pod, all of which its container uses: the name of each and its template."""
    claimed = pod(manifest, name)["spec"].get("resourceClaims", [])
    used = container(manifest, name).get("resources", {}).get("claims", [])
    assert used == [{"name": claim["name"]} for claim in claimed]
    return [(claim["name"], claim["resourceClaimTemplateName"]) for claim in claimed]


def test_each_replica_claims_its_devices_of_a_class(digits: dict[str, Any]) -> None:
    manifest = edited(digits, TWO_OF_A_CLASS | {"spec.stages.0.localReplicas": 2})
    ((name, template),) = templates(manifest).items()
    exactly = {"deviceClassName": "gpu.nvidia.com", "allocationMode": "ExactCount", "count": 2}
    assert template["spec"]["spec"] == {"devices": {"requests": [{"name": "devices", "exactly": exactly}]}}
    assert claims(manifest) == [("replica-0", name), ("replica-1", name)]
    assert claims(manifest, "digits-head") == []
    assert set(container(manifest)["resources"]) == {"claims", "requests"}
    assert not [name for name in container(manifest)["resources"]["requests"] if "/" in name], "no extended resource"
    (process,) = cluster_topology(parse(manifest)).replicas
    assert (process.devices, process.resource) == (4, None)


def test_a_head_with_replicas_claims_theirs_from_the_same_template(digits: dict[str, Any]) -> None:
    manifest = edited(digits, TWO_OF_A_CLASS | {"spec.head.localReplicas": 1})
    (name,) = templates(manifest)
    assert claims(manifest, "digits-head") == claims(manifest) == [("replica-0", name)]


def test_a_template_of_the_users_own_is_used_and_none_is_made(digits: dict[str, Any]) -> None:
    manifest = edited(digits, BY_TEMPLATE)
    assert templates(manifest) == {}
    assert claims(manifest) == [("replica-0", "one-gpu")]


def test_a_template_that_changes_has_another_name(digits: dict[str, Any]) -> None:
    (one,) = templates(edited(digits, TWO_OF_A_CLASS))
    other_class = {"spec.stages.0.accelerator.deviceClassName": "gpu.example.com"}
    (other,) = templates(edited(digits, TWO_OF_A_CLASS | other_class))
    assert one != other


def test_nothing_said_means_nvidias_resource(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.stages.0.accelerator": {}})
    assert container(manifest)["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert claims(manifest) == []


def test_a_users_template_adds_claims_to_ours(digits: dict[str, Any]) -> None:
    own = {"resourceClaims": [{"name": "nic", "resourceClaimTemplateName": "one-nic"}]}
    own |= {"containers": [{"name": "omni", "resources": {"claims": [{"name": "nic"}]}}]}
    manifest = edited(digits, BY_TEMPLATE | {"spec.stages.0.template": {"spec": own}})
    assert claims(manifest) == [("replica-0", "one-gpu"), ("nic", "one-nic")]


@pytest.mark.parametrize("edits", [TWO_OF_A_CLASS, BY_TEMPLATE], ids=["a class", "a template"])
def test_pods_that_claim_devices_are_not_made_where_they_would_get_none(
    digits: dict[str, Any], edits: dict[str, Any]
) -> None:
    topology = cluster_topology(parse(edited(digits, edits)))
    (ref, failure), *others = missing_device_claims(topology, ["Deployment"]).items()
    assert (ref, failure.reason, others) == (("Deployment", "digits-painter"), "DeviceClaimsMissing", [])
    assert not missing_device_claims(topology, ["Deployment", "ResourceClaimTemplate"])
    assert not missing_device_claims(cluster_topology(parse(digits)), ["Deployment"])
