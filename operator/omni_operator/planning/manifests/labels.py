"""The labels of a pipeline's children, and selectors by them. Selectors are immutable, so their labels never change."""

from collections.abc import Mapping

from omni_operator.crd.objects import FIELD_MANAGER

MANAGED_BY = "app.kubernetes.io/managed-by"
PIPELINE = "omnipipeline.dev/pipeline"
ROLE = "omnipipeline.dev/role"
STAGE = "omnipipeline.dev/stage"
HEAD = "head"
REPLICA = "replica"
PREFETCH = "prefetch"

MANAGED_SELECTOR = f"{MANAGED_BY}={FIELD_MANAGER}"


def common(pipeline: str) -> dict[str, str]:
    """Labels of every child of a pipeline."""
    return {
        "app.kubernetes.io/name": "omnipipeline",
        "app.kubernetes.io/instance": pipeline,
        MANAGED_BY: FIELD_MANAGER,
        PIPELINE: pipeline,
    }


def of_role(pipeline: str, role: str, stage: str) -> dict[str, str]:
    """Labels of the objects of one role: HEAD, REPLICA or PREFETCH."""
    return {**common(pipeline), ROLE: role, STAGE: stage}


def pipeline_selector(pipeline: str) -> Mapping[str, str]:
    return {PIPELINE: pipeline}


def head_selector(pipeline: str) -> dict[str, str]:
    return {PIPELINE: pipeline, ROLE: HEAD}


def stage_selector(pipeline: str, stage: str) -> dict[str, str]:
    return {PIPELINE: pipeline, ROLE: REPLICA, STAGE: stage}
