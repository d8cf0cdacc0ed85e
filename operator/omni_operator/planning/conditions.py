"""The conditions of a pipeline: one function for each type, and how they replace the previous ones. Pure.

Messages name what a person can act on. They contain no times and no counters, so an unchanged pipeline has unchanged
conditions.
"""

from collections.abc import Sequence
from typing import Literal

from omni_operator.crd.objects import Object
from omni_operator.crd.problems import InvalidSpec
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.status_types import Condition, ConditionType
from omni_operator.planning.image_pull_status import nodes_warm_condition
from omni_operator.planning.observed import (
    DEADLINE_EXCEEDED,
    DeploymentState,
    Observed,
    has_ended,
    is_pod_of,
    prefetch_trouble,
)
from omni_operator.planning.pod_trouble import is_started
from omni_operator.planning.topology.records import Topology
from omni_operator.planning.turns import WAITING
from omni_operator.planning.without_effect import without_effect

DesiredCondition = tuple[ConditionType, bool, str, str]
"""Type, whether it is true, reason and message."""

NOT_SUSPENDED: DesiredCondition = ("Suspended", False, "NotSuspended", "spec.suspend is false")
SUSPENDED_HEAD: DesiredCondition = ("HeadReady", False, "Suspended", "the head is suspended")
SUSPENDED_READY: DesiredCondition = (
    "Ready",
    False,
    "Suspended",
    "it is suspended; set spec.suspend to false to serve again",
)
PAUSED: DesiredCondition = ("Progressing", False, "Paused", "nothing is changed while spec.paused is true")
SETTLED_REASONS = ("Complete", "Paused")
"""Reasons of Progressing=False with which nothing is wrong."""
OUTDATED: DesiredCondition = (
    "Ready",
    False,
    "Paused",
    "the spec was changed while spec.paused is true; set that to false to apply it",
)
ENDPOINT_DOWN, ENDPOINT_PROBLEM = "EndpointDown", "EndpointProblem"
WAITING_FOR_TURN = "the operator was upgraded; its pods are replaced after those of other pipelines"
PREFETCHING = "the models are being downloaded before the first pod starts"
PREFETCHING_CHANGE = "the models are being downloaded before pods are replaced; until then they serve the previous spec"


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
    """Every condition of a pipeline; with `observed.rejected`, of one that follows its last valid spec."""
    is_suspended, is_paused = pipeline.spec.suspend, pipeline.spec.paused
    accepted: DesiredCondition = ("Accepted", True, "Valid", join("the spec is valid", *without_effect(pipeline)))
    ready = SUSPENDED_READY if is_suspended else ready_condition(topology, head, stages, observed)
    progressing = PAUSED if is_paused else progressing_condition(head, stages, observed)
    if observed.rejected:
        accepted, ready, progressing = rejected_conditions(
            observed.rejected, "until it is, what runs follows the last valid one"
        )
    return [
        accepted,
        suspended_condition(head, stages, observed, is_paused) if is_suspended else NOT_SUSPENDED,
        SUSPENDED_HEAD if is_suspended else head_condition(head, stages, observed),
        ready,
        progressing,
        degraded_condition(head, stages, observed),
        scaling_condition(pipeline, observed),
        nodes_warm_condition(pipeline, observed),
        *kstatus_conditions(progressing),
    ]


def rejected_conditions(
    invalid: InvalidSpec, consequence: str
) -> tuple[DesiredCondition, DesiredCondition, DesiredCondition]:
    """Accepted, Ready and Progressing of a pipeline whose spec is not valid."""
    return (
        ("Accepted", False, "InvalidSpec", str(invalid)),
        ("Ready", False, "NotAccepted", f"the spec is not valid: {invalid}; {consequence}"),
        ("Progressing", False, "NotAccepted", f"the spec is not valid; {consequence}"),
    )


def kstatus_conditions(progressing: DesiredCondition) -> tuple[DesiredCondition, DesiredCondition]:
    """Reconciling and Stalled, by which kstatus tells what is progressing from what needs a person."""
    _, is_progressing, reason, message = progressing
    is_stalled = not is_progressing and reason not in SETTLED_REASONS
    return (
        ("Reconciling", is_progressing, reason, message),
        ("Stalled", is_stalled, reason, message if is_stalled else "no action is needed"),
    )


def suspended_condition(
    head: DeploymentState, stages: Sequence[DeploymentState], observed: Observed, is_paused: bool
) -> DesiredCondition:
    """True when no pod is left. Before that, pods finish their requests; a Deployment no longer counts those."""
    deployments = (head, *stages)
    exist = sum(any(is_pod_of(pod, one.process) for one in deployments) and not has_ended(pod) for pod in observed.pods)
    left = max(exist, sum(deployment.replicas for deployment in deployments))
    if left and is_paused:
        return "Suspended", False, "Paused", f"{left} pods still run; nothing ends them while spec.paused is true"
    if left:
        return "Suspended", False, "Suspending", f"{left} pods are still there; they finish the requests they run"
    return "Suspended", True, "Suspended", "no pod runs; all else is kept"


def head_condition(head: DeploymentState, stages: Sequence[DeploymentState], observed: Observed) -> DesiredCondition:
    if observed.is_prefetching and not exists(head, observed):
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


def ready_condition(
    topology: Topology, head: DeploymentState, stages: Sequence[DeploymentState], observed: Observed
) -> DesiredCondition:
    if failures := observed.major_failures:
        return "Ready", False, failures[0].reason, "; ".join(failure.message for failure in failures)
    if observed.is_outdated:
        return OUTDATED
    if observed.is_prefetching:
        trouble = prefetch_trouble(observed)
        reason, why = (trouble.reason, trouble.message) if trouble else ("Prefetching", "")
        counts = ready_counts([stage for stage in stages if exists(stage, observed)])
        return "Ready", False, reason, join(counts, prefetching_message(head, observed), why)
    if empty := topology.stages_without_replicas:
        return "Ready", False, "ScaledToZero", scaled_to_zero(empty, len(topology.stages))
    unsettled = [deployment for deployment in (head, *stages) if not deployment.is_settled]
    if not unsettled:
        if down := [one.problem for one in observed.endpoints.values() if one.problem and not one.is_up]:
            return "Ready", False, ENDPOINT_DOWN, join(ready_counts(stages), *down)
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
        is_retried = all(failure.is_transient for failure in failures)
        return "Progressing", is_retried, failures[0].reason, "some objects could not be made; see Ready"
    if observed.is_prefetching:
        trouble = prefetch_trouble(observed)
        if trouble and trouble.needs_a_person:
            return "Progressing", False, trouble.reason, trouble.message
        return "Progressing", True, "Prefetching", prefetching_message(head, observed)
    unsettled = [deployment for deployment in (head, *stages) if not deployment.is_settled]
    if not unsettled and observed.waits_for_turn:
        return "Progressing", True, WAITING, WAITING_FOR_TURN
    if not unsettled:
        return "Progressing", False, "Complete", "everything matches the spec"
    for deployment in unsettled:
        if deployment.trouble and deployment.is_stuck:
            reason = DEADLINE_EXCEEDED if deployment.is_late else deployment.trouble.reason
            return "Progressing", False, reason, join(ready_counts(stages), deployment.trouble.message)
    titles = ", ".join(deployment.title for deployment in unsettled)
    is_rolling = any(deployment.is_rolling for deployment in unsettled)
    reason = "RollingOut" if is_rolling else "Scaling" if head.is_settled else "Starting"
    return "Progressing", True, reason, f"updating {titles} to match the spec"


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
    for endpoint in observed.endpoints.values():
        if endpoint.problem:
            reason = ENDPOINT_PROBLEM if endpoint.is_up else ENDPOINT_DOWN
            return "Degraded", True, reason, endpoint.problem
    for stage in stages:
        wanted = {lora.name for lora in stage.process.stage.loras}
        for lora in observed.loras.get(stage.process.stage.name, ()):
            if lora.reason and lora.name in wanted:
                return "Degraded", True, "LoraFailed", f"{stage.title}: {lora.reason}"
    return "Degraded", False, "AsExpected", "no part of the pipeline has failed"


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
    return "ScalingActive", False, "NotRequested", "no stage has autoscaling"


def exists(deployment: DeploymentState, observed: Observed) -> bool:
    return deployment.process.name in observed.deployments


def prefetching_message(head: DeploymentState, observed: Observed) -> str:
    return PREFETCHING_CHANGE if exists(head, observed) else PREFETCHING


def ready_counts(stages: Sequence[DeploymentState]) -> str:
    """`painter 1/2 ready`, of every stage that has pods."""
    return ", ".join(
        f"{stage.process.stage.name} {min(stage.ready, stage.process.copies)}/{stage.process.copies} ready"
        for stage in stages
        if stage.process.copies
    )


def join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
