"""The DaemonSets that pull a pipeline's images to nodes before pods need them: one for each stage, if the spec asks.

Its pods do nothing, and ask for almost nothing. They run on every node where pods of the stage may run, and have the
stage's image, and the image of its model. So both are on the node, and the kubelet does not remove them from its disk.
"""

from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import child
from omni_operator.planning.manifests.placement import placement
from omni_operator.planning.manifests.pod import (
    MODEL_IMAGE_VOLUME,
    Surroundings,
    confined_container,
    merged_template,
    model_image_volume,
    omni_container,
    pod_template,
    users_annotations,
)
from omni_operator.planning.topology.model_sources import IMAGE_DIR
from omni_operator.planning.topology.records import Process, Topology

COMMAND = ("sleep", "infinity")
REQUESTS = {"cpu": "1m", "memory": "8Mi", "ephemeral-storage": "1Mi"}
MEMORY_LIMIT = "64Mi"
UNAVAILABLE = "50%"
"""Nodes that pull a new image at one time: not all at once from one registry."""


def image_pulls(pipeline: OmniPipeline, topology: Topology, surroundings: Surroundings) -> list[Object]:
    """One for each stage; none if the pipeline asks for none or is suspended."""
    if not pipeline.spec.image.prefetch or pipeline.spec.suspend:
        return []
    return [image_pull(pipeline, process, surroundings) for process in topology.replicas]


def image_pull(pipeline: OmniPipeline, process: Process, surroundings: Surroundings) -> Object:
    own_labels = labels.of_role(pipeline.name, labels.IMAGE_PULL, process.stage.name)
    template = pod_template(pipeline, process, surroundings, keys="")
    serving = template.get("spec") or {}
    pod = {
        "terminationGracePeriodSeconds": 1,
        "containers": [idle_container(pipeline, process, serving, surroundings)],
        **({"volumes": [model_image_volume(process.image)]} if process.image else {}),
        **{key: serving[key] for key in ("imagePullSecrets", "runtimeClassName") if key in serving},
        **placement(serving),
    }
    pod_labels = {**template["metadata"]["labels"], **own_labels}
    metadata = {"labels": pod_labels, "annotations": users_annotations(template)}
    selector = {key: own_labels[key] for key in (labels.PIPELINE, labels.ROLE, labels.STAGE)}
    spec = {
        "revisionHistoryLimit": 1,
        "selector": {"matchLabels": selector},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": UNAVAILABLE}},
        "template": merged_template(pipeline, surroundings, metadata, pod, patches=(), resources={}),
    }
    return child(pipeline, "apps/v1", "DaemonSet", f"{process.name}-images", own_labels, {"spec": spec})


def idle_container(
    pipeline: OmniPipeline, process: Process, serving: dict[str, Any], surroundings: Surroundings
) -> dict[str, Any]:
    """A container with the image of the pods that serve, which waits."""
    omni = omni_container(serving)
    mounts = [{"name": MODEL_IMAGE_VOLUME, "mountPath": IMAGE_DIR, "readOnly": True}] if process.image else []
    return {
        **confined_container(pipeline, surroundings),
        **{key: omni[key] for key in ("image", "imagePullPolicy") if key in omni},
        "command": list(COMMAND),
        "resources": {"requests": dict(REQUESTS), "limits": {"memory": MEMORY_LIMIT}},
        **({"volumeMounts": mounts} if mounts else {}),
    }
