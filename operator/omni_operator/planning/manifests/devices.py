"""The devices of a pod: an extended resource, or claims by dynamic resource allocation (DRA).

With claims, each replica in a pod has one, for all its devices. The user names a ResourceClaimTemplate, or a
DeviceClass for which the operator makes one. A template cannot be changed, so its name contains a hash of its content.
"""

from collections.abc import Iterable
from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Accelerator
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import child, content_hash
from omni_operator.planning.topology.records import Process, Topology

CLAIM_TEMPLATE = "ResourceClaimTemplate"


def claim_templates(pipeline: OmniPipeline, topology: Topology) -> list[Object]:
    """One for each stage whose devices are of a DeviceClass, and that has pods with devices."""
    stages = {process.stage.name: process.stage.accelerator for process in topology.processes if process.devices}
    return [
        claim_template(pipeline, stage, accelerator)
        for stage, accelerator in stages.items()
        if accelerator and accelerator.device_class_name
    ]


def claim_template(pipeline: OmniPipeline, stage: str, accelerator: Accelerator) -> Object:
    content = {"spec": {"spec": replica_claim(accelerator)}}
    own_labels = labels.of_role(pipeline.name, labels.REPLICA, stage)
    name = claim_template_name(pipeline, stage, accelerator)
    return child(pipeline, "resource.k8s.io/v1", CLAIM_TEMPLATE, name, own_labels, content)


def claim_template_name(pipeline: OmniPipeline, stage: str, accelerator: Accelerator) -> str:
    """The user's template, or our own."""
    own = f"{pipeline.name}-{stage}-{content_hash(replica_claim(accelerator))[:6]}"
    return accelerator.resource_claim_template_name or own


def replica_claim(accelerator: Accelerator) -> dict[str, Any]:
    """What one replica claims of a DeviceClass."""
    count = {"allocationMode": "ExactCount", "count": accelerator.count}
    exactly = {"deviceClassName": accelerator.device_class_name, **count}
    return {"devices": {"requests": [{"name": "devices", "exactly": exactly}]}}


def pod_claims(pipeline: OmniPipeline, process: Process) -> dict[str, Any]:
    """The claims of a pod of a process: one for each replica in it."""
    accelerator = process.stage.accelerator
    if accelerator is None or not process.claims_devices:
        return {}
    template = claim_template_name(pipeline, process.stage.name, accelerator)
    return {"resourceClaims": [{"name": name, "resourceClaimTemplateName": template} for name in claim_names(process)]}


def container_devices(process: Process) -> dict[str, Any]:
    """The devices of the worker's container, as its `resources`."""
    if process.claims_devices:
        return {"resources": {"claims": [{"name": name} for name in claim_names(process)]}}
    if process.devices and process.resource:
        count = {process.resource: str(process.devices)}
        return {"resources": {"requests": count, "limits": dict(count)}}
    return {}


def claim_names(process: Process) -> Iterable[str]:
    return (f"replica-{index}" for index in range(len(process.data_ports)))
