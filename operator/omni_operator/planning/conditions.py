"""The conditions of a pipeline: one function for each type, and how they replace the previous ones. Pure.

Messages name what a person can act on. They contain no times and no counters, so an unchanged pipeline has unchanged
conditions.
"""

from collections.abc import Sequence
from typing import Literal

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.status_types import Condition, ConditionType
from omni_operator.planning.observed import DEADLINE_EXCEEDED, DeploymentState, Observed, is_pod_of, prefetch_trouble
from omni_operator.planning.topology.records import Topology

DesiredCondition = tuple[ConditionType, bool, str, str]
"""Type, whether it is true, reason and message."""

NOT_SUSPENDED: DesiredCondition = ("Suspended", False, "NotSuspended", "its pods may run")
SUSPENDED_HEAD: DesiredCondition = ("HeadReady", False, "Suspended", "the head is suspended")
SUSPENDED_READY: DesiredCondition = (
    "Ready",
    False,
    "Suspended",
    "it is suspended; set spec.suspend to false to serve again",
)
PAUSED: DesiredCondition = ("Progressing", False, "Paused", "nothing is changed while spec.paused is true")
PREFETCHING = "the models are being downloaded before the first pod starts"


def updated_conditions(
    previous: Sequence[Object], desired: Sequence[DesiredCondition], generation: int, now: str
) -> tuple[Condition, ...]:
    """The new conditions. Each keeps its lastTransitionTime unless its status changes; then it gets `now`, in RFC 3339.

    Conditions in `previous` that `desired` does not contain stay unchanged.
    """
    previous_by_type = {str(condition.get("type")): condition for condition in previous}
    updated = {}
    for kind, is_true, reason, message in desired:
        status: Literal["True", "False"] = "True" if is_true else "False"
        before = previous_by_type.get(kind, {})
        since = before.get("lastTransitionTime") if before.get("status") == status else None
        updated[kind] = Condition(
            type=kind,
            status=status,
            reason=reason,
            message=message,
            observed_generation=generation,
            last_transition_time=since or now,
        )
    kept = [Condition.model_validate(before) for kind, before in previous_by_type.items() if kind not in updated]
    return (*updated.values(), *kept)


def desired_conditions(
    pipeline: OmniPipeline,
    topology: Topology,
    head: DeploymentState,
    stages: Sequence[DeploymentState],
    observed: Observed,
) -> list[DesiredCondition]:
    """Every condition of a pipeline whose spec is valid."""
    is_suspended, is_paused = pipeline.spec.suspend, pipeline.spec.paused
    return [
        ("Accepted", True, "Valid", "the spec is valid"),
        suspended_condition(head, stages) if is_suspended else NOT_SUSPENDED,
        SUSPENDED_HEAD if is_suspended else head_condition(head, stages, observed),
        SUSPENDED_READY if is_suspended else ready_condition(topology, head, stages, observed),
        PAUSED if is_paused else progressing_condition(head, stages, observed),
        degraded_condition(head, stages, observed),
        scaling_condition(pipeline, observed),
    ]


def suspended_condition(head: DeploymentState, stages: Sequence[DeploymentState]) -> DesiredCondition:
    """True when no pod is left. Before that, pods finish their requests."""
    left = sum(deployment.replicas for deployment in (head, *stages))
    if left:
        return "Suspended", False, "Suspending", f"{left} pods are still there; they finish the requests they run"
    return "Suspended", True, "Suspended", "no pod runs; all else is kept"


def head_condition(head: DeploymentState, stages: Sequence[DeploymentState], observed: Observed) -> DesiredCondition:
    if observed.is_prefetching:
        return "HeadReady", False, "Prefetching", "the head is made when the models have been downloaded"
    if head.ready:
        return "HeadReady", True, "Serving", "the head serves requests"
    if head.trouble:
        return "HeadReady", False, head.trouble.reason, f"the head: {head.trouble.message}"
    if any(is_pod_of(pod, head.process) and is_started(pod) for pod in observed.pods):
        missing = [stage.process.stage.name for stage in stages if not stage.ready] or ["every stage"]
        message = f"the head has started, and waits for a replica of {' and '.join(missing)}"
        return "HeadReady", False, "WaitingForReplicas", message
    return "HeadReady", False, "Starting", "the head is starting"


def is_started(pod: Object) -> bool:
    """Whether the startup probe of every container has succeeded."""
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return bool(containers) and all(container.get("started") for container in containers)


def ready_condition(
    topology: Topology, head: DeploymentState, stages: Sequence[DeploymentState], observed: Observed
) -> DesiredCondition:
    if failures := observed.major_failures:
        return "Ready", False, failures[0].reason, "; ".join(failure.message for failure in failures)
    if observed.is_prefetching:
        trouble = prefetch_trouble(observed)
        reason, why = (trouble.reason, trouble.message) if trouble else ("Prefetching", "")
        return "Ready", False, reason, join(PREFETCHING, why)
    if empty := topology.stages_without_replicas:
        return "Ready", False, "ScaledToZero", scaled_to_zero(empty, len(topology.stages))
    unsettled = [deployment for deployment in (head, *stages) if not deployment.is_settled]
    if not unsettled:
        return "Ready", True, "Serving", ready_counts(stages) or "the head serves requests"
    troubles = [(deployment.trouble, deployment.title) for deployment in unsettled if deployment.trouble]
    if troubles:
        trouble, title = min(troubles, key=lambda pair: pair[0].rank)
        return "Ready", False, trouble.reason, join(ready_counts(stages), f"{title}: {trouble.message}")
    if any(deployment.is_rolling for deployment in unsettled):
        return "Ready", False, "RollingOut", join(ready_counts(stages), "pods of the previous spec are being replaced")
    waiting = "" if head.ready else "the head is not ready yet"
    return "Ready", False, "Starting", join(ready_counts(stages), waiting)


def scaled_to_zero(empty: Sequence[str], stages: int) -> str:
    """What to do about the stages without replicas. Every request needs all stages."""
    if len(empty) == stages:
        return "no replica is asked for; set spec.replicas to 1 or more to serve"
    return f"no replica is asked for of stage {' and '.join(empty)}; give it replicas: 1 or more to serve"


def progressing_condition(
    head: DeploymentState, stages: Sequence[DeploymentState], observed: Observed
) -> DesiredCondition:
    if failures := observed.major_failures:
        return "Progressing", False, failures[0].reason, "some objects could not be made; see Ready"
    if observed.is_prefetching:
        trouble = prefetch_trouble(observed)
        if trouble and trouble.needs_a_person:
            return "Progressing", False, trouble.reason, trouble.message
        return "Progressing", True, "Prefetching", PREFETCHING
    unsettled = [deployment for deployment in (head, *stages) if not deployment.is_settled]
    if not unsettled:
        return "Progressing", False, "Complete", "everything runs as the spec says"
    for deployment in unsettled:
        if deployment.trouble and deployment.is_stuck:
            reason = DEADLINE_EXCEEDED if deployment.is_late else deployment.trouble.reason
            return "Progressing", False, reason, join(ready_counts(stages), deployment.trouble.message)
    titles = ", ".join(deployment.title for deployment in unsettled)
    is_rolling = any(deployment.is_rolling for deployment in unsettled)
    reason = "RollingOut" if is_rolling else "Scaling" if head.is_settled else "Starting"
    return "Progressing", True, reason, f"bringing {titles} to what the spec says"


def degraded_condition(
    head: DeploymentState, stages: Sequence[DeploymentState], observed: Observed
) -> DesiredCondition:
    """Whether the pipeline serves with less than the spec asks for, so that a person should look."""
    if observed.left_out:
        kinds = " and ".join(observed.left_out)
        return "Degraded", True, "KindMissing", f"left out, since this cluster does not have that kind: {kinds}"
    for failure in observed.failures:
        if failure.is_minor:
            return "Degraded", True, failure.reason, failure.message
    for deployment in (head, *stages):
        if head.ready and deployment.trouble and not deployment.is_settled:
            return "Degraded", True, deployment.trouble.reason, f"it serves, but {deployment.trouble.message}"
    return "Degraded", False, "AsWanted", "nothing is less than it should be"


def scaling_condition(pipeline: OmniPipeline, observed: Observed) -> DesiredCondition:
    by_us = " and ".join(stage.name for stage in pipeline.spec.stages if stage.is_autoscaled)
    by_others = " and ".join(stage.name for stage in pipeline.spec.stages if stage.is_scaled_elsewhere)
    if by_us and (pipeline.spec.suspend or pipeline.spec.paused):
        return "ScalingActive", False, "AtRest", "a pipeline that is suspended or paused is not scaled"
    external = f"another autoscaler scales {by_others}, whose count spec.replicas does not set" if by_others else ""
    if by_us and observed.unknown_load:
        unknown = f"the load of {by_us} is not known, and the counts stay: {observed.unknown_load}"
        return "ScalingActive", False, "UnknownLoad", join(unknown, external)
    if by_us:
        return "ScalingActive", True, "FollowsLoad", join(f"{by_us}: scaled by the load", external)
    if by_others:
        return "ScalingActive", True, "External", external
    return "ScalingActive", False, "NotAsked", "no stage has autoscaling"


def ready_counts(stages: Sequence[DeploymentState]) -> str:
    """`painter 1/2 ready`, of every stage that has pods."""
    return ", ".join(
        f"{stage.process.stage.name} {min(stage.ready, stage.process.copies)}/{stage.process.copies} ready"
        for stage in stages
        if stage.process.copies
    )


def join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
