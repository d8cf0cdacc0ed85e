"""The Job that decides where the volume of a cache is: its pod runs where a pod of the stage may run."""

from typing import Any

import pytest

from omni_operator.crd.objects import Object
from tests.operator.edits import REMOVED, edited
from tests.operator.rendered import pod, rendered

CACHE = {"size": "200Gi", "prefetch": True, "accessMode": "ReadWriteOnce"}
HUB = {"spec.model": {"source": "hf://a/b", "cache": CACHE}}
AFFINITY = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}}


def bindings(manifest: dict[str, Any]) -> list[Object]:
    roles = ((child, child["metadata"]["labels"].get("omnipipeline.dev/role")) for child in rendered(manifest).values())
    return [child for child, role in roles if role == "volume-binding"]


def test_its_pod_is_scheduled_like_those_of_the_stage_and_has_the_volume_and_nothing_else(
    digits: dict[str, Any],
) -> None:
    settings = {
        "spec.stages.0.affinity": AFFINITY,
        "spec.stages.0.accelerator.nodeSelector": {"gpu": "l40s"},
        "spec.stages.0.tolerations": [{"key": "pool", "operator": "Exists"}],
        "spec.stages.0.template": {
            "spec": {"schedulerName": "mine", "containers": [{"name": "side", "image": "s"}], "initContainers": []}
        },
    }
    manifest = edited(digits, {**HUB, **settings})
    (job,) = bindings(manifest)
    spec, serving = job["spec"]["template"]["spec"], pod(manifest)["spec"]
    for field in ("affinity", "nodeSelector", "tolerations", "schedulerName", "securityContext", "serviceAccountName"):
        assert spec[field] == serving[field], field
    (container,) = spec["containers"]
    assert container["args"] == ["--version"]
    assert container["resources"] == serving["containers"][0]["resources"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert {one["name"]: one.get("persistentVolumeClaim") for one in spec["volumes"]} == {
        "tmp": None,
        "model-cache": {"claimName": "digits-models"},
    }
    assert job["spec"]["template"]["metadata"]["labels"]["omnipipeline.dev/role"] == "prefetch", "for the status"


def test_it_claims_devices_that_are_allocated_dynamically(digits: dict[str, Any]) -> None:
    claimed = {"spec.stages.0.accelerator": {"resourceClaimTemplateName": "gpus"}}
    (job,) = bindings(edited(digits, {**HUB, **claimed}))
    spec = job["spec"]["template"]["spec"]
    assert spec["resourceClaims"] == pod(edited(digits, {**HUB, **claimed}))["spec"]["resourceClaims"]
    assert spec["containers"][0]["resources"]["claims"]


def test_another_model_or_secret_needs_no_other_job_and_other_devices_do(digits: dict[str, Any]) -> None:
    def name(**edits: Any) -> str:
        (job,) = bindings(edited(digits, {**HUB, **edits}))
        return str(job["metadata"]["name"])

    assert name(**{"spec.model": {"source": "hf://c/d", "cache": CACHE}}) == name()
    assert name(**{"spec.stages.0.accelerator.resource": "amd.com/gpu"}) != name()


NONE = {
    "a volume for many nodes": {"spec.model.cache.accessMode": "ReadWriteMany"},
    "a claim of the user": {"spec.model.cache": {"claimName": "mine", "accessMode": "ReadWriteOnce", "prefetch": True}},
    "no download": {"spec.model.cache.prefetch": False},
    "no device": {"spec.stages.0.accelerator": REMOVED},
    "suspended": {"spec.suspend": True},
}


@pytest.mark.parametrize("row", NONE)
def test_there_is_none_without_need(digits: dict[str, Any], row: str) -> None:
    assert bindings(edited(edited(digits, HUB), NONE[row])) == []
