"""The labels of a pipeline's children, and selectors by them. Selectors are immutable, so their labels never change."""

from collections.abc import Mapping

from omni_operator.crd.objects import FIELD_MANAGER

INSTANCE = "app.kubernetes.io/instance"
MANAGED_BY = "app.kubernetes.io/managed-by"
PIPELINE = "omnipipeline.dev/pipeline"
ROLE = "omnipipeline.dev/role"
STAGE = "omnipipeline.dev/stage"
HEAD = "head"
REPLICA = "replica"
PREFETCH = "prefetch"
IMAGE_PULL = "image-pull"
BINDING = "volume-binding"
"""The role of a Job alone."""

QUEUE_LABELS = ("kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class")

MANAGED_SELECTOR = f"{MANAGED_BY}={FIELD_MANAGER}"


def common(pipeline: str) -> dict[str, str]:
    """Labels of every child of a pipeline."""
    return {
        "app.kubernetes.io/name": "omnipipeline",
        INSTANCE: pipeline,
        MANAGED_BY: FIELD_MANAGER,
        PIPELINE: pipeline,
    }


def of_role(pipeline: str, role: str, stage: str) -> dict[str, str]:
    """Labels of the objects of one role: HEAD, REPLICA, PREFETCH or IMAGE_PULL."""
    return {**common(pipeline), ROLE: role, STAGE: stage}


def of_queue(pipeline_labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of a pipeline that tell Kueue which queue its pods wait in. Kueue reads them from Deployments."""
    return {name: value for name, value in pipeline_labels.items() if name in QUEUE_LABELS}


def pipeline_selector(pipeline: str) -> Mapping[str, str]:
    return {PIPELINE: pipeline}


def head_selector(pipeline: str) -> dict[str, str]:
    return {PIPELINE: pipeline, ROLE: HEAD}


def stage_selector(pipeline: str, stage: str) -> dict[str, str]:
    return {PIPELINE: pipeline, ROLE: REPLICA, STAGE: stage}
