"""From a pipeline and what was observed of it to its status: counts, conditions, words a person can act on. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from omni_operator.crd.objects import Object
from omni_operator.crd.problems import InvalidSpec
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.status_types import Conditions, StageStatus, Status, updated_conditions
from omni_operator.planning.manifests.labels import PREFETCH, REPLICA, ROLE, STAGE, pipeline_selector
from omni_operator.planning.pod_trouble import REFUSED, REPLICA_DOWN, TOO_LATE, Trouble, ending_trouble, pod_trouble
from omni_operator.planning.topology.records import Process, Topology

Row = tuple[Conditions, bool, str, str]
LATE = "DeadlineExceeded"


@dataclass(frozen=True)
class Failure:
    """A child that could not be made as wanted: why in one word, and in a sentence."""

    reason: str
    message: str
    is_minor: bool = False
    """Whether the pipeline serves as well without."""


@dataclass(frozen=True)
class Observed:
    """What was found in the cluster, after the plan was applied."""

    deployments: Mapping[str, Object]
    pods: Sequence[Object]
    failures: Sequence[Failure] = ()
    left_out: Sequence[str] = ()
    """Kinds of children that the API server does not have."""
    unknown_load: str | None = None
    is_prefetching: bool = False
    """Whether no pod is made before the models have been downloaded."""
    serving_in_head: int | None = None
    """Replicas inside the head that serve, where it is known."""

    @property
    def grave(self) -> Sequence[Failure]:
        """The failures that keep it from being ready."""
        return [failure for failure in self.failures if not failure.is_minor]


@dataclass(frozen=True)
class Fleet:
    """The pods of one Deployment, counted. Counts of an older generation say nothing of the present one."""

    process: Process
    replicas: int
    ready: int
    updated: int
    is_current: bool
    trouble: Trouble | None
    is_late: bool
    """Whether a rollout has passed its deadline."""
    is_whole: bool
    """Whether no replica is missing within the pods, as far as that is known of ready ones."""

    @property
    def is_settled(self) -> bool:
        wanted = self.process.copies
        return self.is_current and self.is_whole and self.replicas == self.ready == self.updated == wanted

    @property
    def is_stuck(self) -> bool:
        """Whether it gets no further until a person acts."""
        return self.is_late or (self.trouble is not None and self.trouble.needs_a_person)

    @property
    def is_rolling(self) -> bool:
        return self.is_current and self.updated < min(self.replicas, self.process.copies)


def accepted_status(
    pipeline: OmniPipeline, topology: Topology, observed: Observed, previous: Object, now: str
) -> Status:
    """The status of a pipeline whose spec is valid. `now` is RFC 3339, for conditions that change."""
    head = fleet(topology.head, observed, now)
    stages = [fleet(process, observed, now) for process in topology.replicas]
    generation = pipeline.metadata.generation
    wanted: list[Row] = [
        ("Accepted", True, "Valid", "the spec is valid"),
        suspended_condition(head, stages) if pipeline.spec.suspend else NOT_SUSPENDED,
        SUSPENDED_HEAD if pipeline.spec.suspend else head_condition(head, stages, observed),
        SUSPENDED_READY if pipeline.spec.suspend else ready_condition(topology, head, stages, observed),
        PAUSED if pipeline.spec.paused else progressing_condition(head, stages, observed),
        degraded_condition(head, stages, observed),
        scaling_condition(pipeline, observed),
    ]
    return Status(
        observed_generation=generation,
        replicas=sum(stage.replicas for stage in stages),
        ready_replicas=sum(stage.ready for stage in stages),
        selector=",".join(
            f"{key}={value}" for key, value in {**pipeline_selector(pipeline.name), ROLE: REPLICA}.items()
        ),
        stages=tuple(stage_status(stage) for stage in stages),
        conditions=updated_conditions(previous.get("conditions") or [], wanted, generation, now),
    )


def rejected_status(generation: int, invalid: InvalidSpec, previous: Object, now: str) -> Status:
    """The status of a pipeline whose spec is invalid: what ran before runs on, and its counts stay."""
    kept = "what ran before is left as it is until the spec is valid"
    wanted: list[Row] = [
        ("Accepted", False, "InvalidSpec", str(invalid)),
        ("Ready", False, "NotAccepted", f"the spec is not valid: {invalid}; {kept}"),
        ("Progressing", False, "NotAccepted", f"the spec is not valid; {kept}"),
    ]
    conditions = updated_conditions(previous.get("conditions") or [], wanted, generation, now)
    before = {key: value for key, value in previous.items() if key not in ("conditions", "observedGeneration")}
    return Status.model_validate({**before, "observedGeneration": generation, "conditions": conditions})


# ---- counting


def fleet(process: Process, observed: Observed, now: str) -> Fleet:
    deployment = observed.deployments.get(process.name) or {}
    counts = deployment.get("status") or {}
    is_current = bool(deployment) and counts.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    missing = missing_in_head(process, observed)
    pods = sorted((pod for pod in observed.pods if belongs(pod, process)), key=lambda pod: str(pod["metadata"]["name"]))
    return Fleet(
        process=process,
        replicas=counts.get("replicas", 0),
        ready=counts.get("readyReplicas", 0),
        updated=counts.get("updatedReplicas", 0) if is_current else 0,
        is_current=is_current,
        trouble=worst(pods, deployment, missing, now),
        is_late=any(trouble.reason == LATE for trouble in deployment_troubles(deployment)),
        is_whole=not missing,
    )


def missing_in_head(process: Process, observed: Observed) -> int:
    """Replicas that should serve inside the head and do not. The head is ready without them, for others serve on."""
    if not process.is_head or observed.serving_in_head is None:
        return 0
    return max(0, len(process.data_ports) - observed.serving_in_head)


def belongs(pod: Object, process: Process) -> bool:
    labels = pod["metadata"].get("labels") or {}
    role = labels.get(ROLE)
    if process.is_head:
        return role not in (REPLICA, PREFETCH)
    return role == REPLICA and labels.get(STAGE) == process.stage.name


def worst(pods: Sequence[Object], deployment: Object, missing: int, now: str) -> Trouble | None:
    """The trouble of a Deployment that most needs a person: its own, or that of one of its pods."""
    found = [trouble for pod in pods if (trouble := pod_trouble(pod) or ending_trouble(pod, now))]
    found += deployment_troubles(deployment)
    if missing:
        what = "a replica inside it does" if missing == 1 else f"{missing} replicas inside it do"
        found.append(Trouble(REPLICA_DOWN, "ReplicaDown", f"{what} not serve; it starts them again, see its log"))
    return min(found, key=lambda trouble: trouble.rank, default=None)


def deployment_troubles(deployment: Object) -> Iterator[Trouble]:
    for condition in (deployment.get("status") or {}).get("conditions") or []:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            yield Trouble(REFUSED, "PodsRefused", f"the cluster refuses its pods: {condition.get('message', '')}")
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            yield Trouble(TOO_LATE, LATE, "its pods did not become ready in time; see their logs")


def stage_status(stage: Fleet) -> StageStatus:
    trouble = None if stage.is_settled else stage.trouble
    return StageStatus(
        name=stage.process.stage.name,
        desired=stage.process.copies,
        replicas=stage.replicas,
        ready=stage.ready,
        updated=stage.updated,
        reason=trouble.reason if trouble else None,
        message=trouble.message if trouble else None,
    )


# ---- conditions


NOT_SUSPENDED: Row = ("Suspended", False, "NotSuspended", "its pods may run")
SUSPENDED_HEAD: Row = ("HeadReady", False, "Suspended", "the head is suspended")
SUSPENDED_READY: Row = ("Ready", False, "Suspended", "it is suspended; set spec.suspend to false to serve again")
PREFETCHING = "the models are being downloaded before the first pod starts"
PAUSED: Row = ("Progressing", False, "Paused", "nothing is changed while spec.paused is true")


def suspended_condition(head: Fleet, stages: Sequence[Fleet]) -> Row:
    """True once the last pod has gone; until then running requests finish."""
    left = sum(fleet.replicas for fleet in (head, *stages))
    if left:
        return "Suspended", False, "Suspending", f"{left} pods are still there; they finish the requests they run"
    return "Suspended", True, "Suspended", "no pod runs; all else is kept"


def head_condition(head: Fleet, stages: Sequence[Fleet], observed: Observed) -> Row:
    if observed.is_prefetching:
        return "HeadReady", False, "Prefetching", "the head is made when the models have been downloaded"
    if head.ready:
        return "HeadReady", True, "Serving", "the head serves requests"
    if head.trouble:
        return "HeadReady", False, head.trouble.reason, f"the head: {head.trouble.message}"
    pods = [pod for pod in observed.pods if belongs(pod, head.process) and is_started(pod)]
    if pods:
        missing = [stage.process.stage.name for stage in stages if not stage.ready] or ["every stage"]
        message = f"the head has started, and waits for a replica of {' and '.join(missing)}"
        return "HeadReady", False, "WaitingForReplicas", message
    return "HeadReady", False, "Starting", "the head is starting"


def is_started(pod: Object) -> bool:
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return bool(containers) and all(container.get("started") for container in containers)


def ready_condition(topology: Topology, head: Fleet, stages: Sequence[Fleet], observed: Observed) -> Row:
    if grave := observed.grave:
        return "Ready", False, grave[0].reason, "; ".join(failure.message for failure in grave)
    if observed.is_prefetching:
        trouble = prefetch_trouble(observed)
        reason, why = (trouble.reason, trouble.message) if trouble else ("Prefetching", "")
        return "Ready", False, reason, join(PREFETCHING, why)
    fleets = [head, *stages]
    if empty := topology.stages_without_replicas:
        return "Ready", False, "ScaledToZero", scaled_to_zero(empty, len(topology.stages))
    blocked = [fleet for fleet in fleets if not fleet.is_settled]
    if not blocked:
        return "Ready", True, "Serving", counted(stages) or "the head serves requests"
    troubled = [fleet for fleet in blocked if fleet.trouble]
    if troubled:
        first = min(troubled, key=lambda fleet: fleet.trouble.rank if fleet.trouble else 0)
        assert first.trouble is not None
        what = "the head" if first.process.is_head else f"stage {first.process.stage.name}"
        return "Ready", False, first.trouble.reason, join(counted(stages), f"{what}: {first.trouble.message}")
    if any(fleet.is_rolling for fleet in blocked):
        return "Ready", False, "RollingOut", join(counted(stages), "pods of the previous spec are being replaced")
    waiting = "" if head.ready else "the head is not ready yet"
    return "Ready", False, "Starting", join(counted(stages), waiting)


def scaled_to_zero(empty: Sequence[str], stages: int) -> str:
    """What to do about the stages without replicas. Every request needs all stages."""
    if len(empty) == stages:
        return "no replica is asked for; set spec.replicas to 1 or more to serve"
    return f"no replica is asked for of stage {' and '.join(empty)}; give it replicas: 1 or more to serve"


def progressing_condition(head: Fleet, stages: Sequence[Fleet], observed: Observed) -> Row:
    if grave := observed.grave:
        return "Progressing", False, grave[0].reason, "some objects could not be made; see Ready"
    if observed.is_prefetching:
        trouble = prefetch_trouble(observed)
        if trouble and trouble.needs_a_person:
            return "Progressing", False, trouble.reason, trouble.message
        return "Progressing", True, "Prefetching", PREFETCHING
    blocked = [fleet for fleet in (head, *stages) if not fleet.is_settled]
    if not blocked:
        return "Progressing", False, "Complete", "everything runs as the spec says"
    for fleet in blocked:
        if fleet.trouble and fleet.is_stuck:
            reason = LATE if fleet.is_late else fleet.trouble.reason
            return "Progressing", False, reason, join(counted(stages), fleet.trouble.message)
    names = ", ".join("the head" if fleet.process.is_head else f"stage {fleet.process.stage.name}" for fleet in blocked)
    is_rolling = any(fleet.is_rolling for fleet in blocked)
    reason = "RollingOut" if is_rolling else "Scaling" if head.is_settled else "Starting"
    return "Progressing", True, reason, f"bringing {names} to what the spec says"


def degraded_condition(head: Fleet, stages: Sequence[Fleet], observed: Observed) -> Row:
    """Whether it serves with less than is wanted, so that a person should look."""
    if observed.left_out:
        kinds = " and ".join(observed.left_out)
        return "Degraded", True, "KindMissing", f"left out, since this cluster does not have that kind: {kinds}"
    for failure in observed.failures:
        if failure.is_minor:
            return "Degraded", True, failure.reason, failure.message
    for fleet in (head, *stages):
        if head.ready and fleet.trouble and not fleet.is_settled:
            return "Degraded", True, fleet.trouble.reason, f"it serves, but {fleet.trouble.message}"
    return "Degraded", False, "AsWanted", "nothing is less than it should be"


def scaling_condition(pipeline: OmniPipeline, observed: Observed) -> Row:
    ours = [stage.name for stage in pipeline.spec.stages if stage.is_autoscaled]
    others = [stage.name for stage in pipeline.spec.stages if stage.is_scaled_elsewhere]
    if ours and (pipeline.spec.suspend or pipeline.spec.paused):
        return "ScalingActive", False, "AtRest", "a pipeline that is suspended or paused is not scaled"
    theirs = f"another autoscaler scales {' and '.join(others)}, whose count spec.replicas does not set"
    elsewhere = theirs if others else ""
    if ours and observed.unknown_load:
        held = f"the load of {' and '.join(ours)} is not known, and the counts stay: {observed.unknown_load}"
        return "ScalingActive", False, "UnknownLoad", join(held, elsewhere)
    if ours:
        return "ScalingActive", True, "FollowsLoad", join(f"{' and '.join(ours)}: scaled by the load", elsewhere)
    if others:
        return "ScalingActive", True, "External", elsewhere
    return "ScalingActive", False, "NotAsked", "no stage has autoscaling"


def counted(stages: Sequence[Fleet]) -> str:
    return ", ".join(
        f"{stage.process.stage.name} {min(stage.ready, stage.process.copies)}/{stage.process.copies} ready"
        for stage in stages
        if stage.process.copies
    )


def prefetch_trouble(observed: Observed) -> Trouble | None:
    pods = [pod for pod in observed.pods if (pod["metadata"].get("labels") or {}).get(ROLE) == PREFETCH]
    return min(filter(None, map(pod_trouble, pods)), key=lambda trouble: trouble.rank, default=None)


def join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
