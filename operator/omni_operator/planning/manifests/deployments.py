"""The Deployments of a pipeline: one for the head, and one for each stage."""

from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import child
from omni_operator.planning.manifests.pod import pod_template
from omni_operator.planning.topology.records import Process, Topology

DEADLINE_MARGIN_SECONDS = 120
"""Time that a rollout may take beyond the startup of a process."""


def head_deployment(pipeline: OmniPipeline, topology: Topology, worker_image: str, secret: str) -> Object:
    """Recreate, so that there are never two heads: they share one name, and each would get only some replicas."""
    return deployment(
        pipeline,
        topology.head,
        labels.head_selector(pipeline.name),
        {"type": "Recreate"},
        pod_template(pipeline, topology, topology.head, worker_image, secret),
    )


def stage_deployment(
    pipeline: OmniPipeline, topology: Topology, process: Process, worker_image: str, secret: str
) -> Object:
    """RollingUpdate within the stage's own limits. By default it needs no extra devices."""
    rollout = process.stage.rollout
    return deployment(
        pipeline,
        process,
        labels.stage_selector(pipeline.name, process.stage.name),
        {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": rollout.max_unavailable, "maxSurge": rollout.max_surge},
        },
        pod_template(pipeline, topology, process, worker_image, secret),
    )


def deployment(
    pipeline: OmniPipeline,
    process: Process,
    selector: dict[str, str],
    strategy: dict[str, Any],
    template: dict[str, Any],
) -> Object:
    role = labels.HEAD if process.is_head else labels.REPLICA
    is_ours_to_scale = process.is_head or pipeline.spec.suspend or not process.stage.is_scaled_elsewhere
    count = {"replicas": process.copies} if is_ours_to_scale else {}
    return child(
        pipeline,
        "apps/v1",
        "Deployment",
        process.name,
        labels.of_role(pipeline.name, role, process.stage.name),
        {
            "spec": {
                **count,
                "revisionHistoryLimit": 3,
                "progressDeadlineSeconds": process.startup_seconds + DEADLINE_MARGIN_SECONDS,
                "selector": {"matchLabels": selector},
                "strategy": strategy,
                "template": template,
            }
        },
    )
