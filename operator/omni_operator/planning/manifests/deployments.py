"""The Deployments of a pipeline: one for the head, and one for each stage."""

from collections.abc import Mapping
from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import child
from omni_operator.planning.manifests.pod import Surroundings, pod_template
from omni_operator.planning.topology.records import Process, Topology

DEADLINE_MARGIN_SECONDS = 120
"""Time that a rollout may take beyond the end of an old pod and the startup of a new one."""
MAX_DEADLINE_SECONDS = 2**31 - 1
"""What fits into the field."""
DEFAULT_GRACE_SECONDS = 30
"""What Kubernetes gives a pod whose template leaves its grace period open."""


def head_deployment(pipeline: OmniPipeline, topology: Topology, surroundings: Surroundings, keys: str) -> Object:
    """Recreate, so that there are never two heads: they share one name, and each would get only some replicas."""
    return deployment(
        pipeline,
        topology.head,
        labels.head_selector(pipeline.name),
        {"type": "Recreate"},
        pod_template(pipeline, topology.head, surroundings, keys),
    )


def stage_deployment(pipeline: OmniPipeline, process: Process, surroundings: Surroundings, keys: str) -> Object:
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
        pod_template(pipeline, process, surroundings, keys),
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
        {**labels.of_queue(pipeline.metadata.labels), **labels.of_role(pipeline.name, role, process.stage.name)},
        {
            "spec": {
                **count,
                "revisionHistoryLimit": 3,
                "progressDeadlineSeconds": deadline_seconds(process, template),
                "selector": {"matchLabels": selector},
                "strategy": strategy,
                "template": template,
            }
        },
    )


def deadline_seconds(process: Process, template: Mapping[str, Any]) -> int:
    """Longest time without progress in a rollout: an old pod finishes its requests, then a new one loads its model.

    The new pod needs the devices of the old one.
    """
    grace = (template.get("spec") or {}).get("terminationGracePeriodSeconds")
    if not isinstance(grace, int):  # in a user's template; the server judges it
        grace = DEFAULT_GRACE_SECONDS
    return min(grace + process.startup_seconds + DEADLINE_MARGIN_SECONDS, MAX_DEADLINE_SECONDS)
