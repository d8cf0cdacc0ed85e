"""What was observed of a pipeline in its cluster, and the state of each of its Deployments that follows. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from omni_operator.crd.objects import Object
from omni_operator.crd.problems import InvalidSpec
from omni_operator.planning.manifests.labels import IMAGE_PULL, PREFETCH, REPLICA, ROLE, STAGE
from omni_operator.planning.plan import has_given_up
from omni_operator.planning.pod_trouble import (
    CRASHING,
    GATED,
    LATE,
    REFUSED,
    REPLICA_DOWN,
    Trouble,
    has_failed,
    is_pod_ready,
    pod_trouble,
    termination_trouble,
)
from omni_operator.planning.topology.records import Process

DEADLINE_EXCEEDED = "DeadlineExceeded"


@dataclass(frozen=True)
class Failure:
    """A child that could not be applied or deleted.

    reason: one CamelCase word
    is_minor: whether the pipeline serves as well without the child
    is_transient: whether the same request may succeed later
    """

    reason: str
    message: str
    is_minor: bool = False
    is_transient: bool = False


@dataclass(frozen=True)
class ObservedLora:
    """A LoRA adapter at a stage: on how many replicas it is loaded, and why it is not on another one."""

    name: str
    loaded: int
    reason: str | None = None


@dataclass(frozen=True)
class ObservedEndpoint:
    """A server that is a stage: whether it gets requests, and what is wrong with it, if the head knows."""

    is_up: bool
    problem: str | None = None


@dataclass(frozen=True)
class Observed:
    """What was found in the cluster after the plan was applied.

    deployments: by name
    pods: every pod of the pipeline
    left_out: kinds of children that the API server does not have
    unknown_load: why the load is unknown, if autoscaling needs it
    is_prefetching: whether Deployments wait for the download of the models
    waits_for_turn: whether Deployments wait until other pipelines have what a new operator makes of them
    jobs: those that download models
    image_pulls: the DaemonSets that pull images to nodes
    serving_in_head: replicas inside the head that serve; None if that is unknown
    is_outdated: whether the spec was changed while the pipeline is paused
    rejected: why the spec is not valid, if so; then everything else follows the last valid one
    loras: the LoRA adapters at each stage, by its name
    endpoints: the servers that stages are, by the names of the stages, as far as the head has answered
    """

    deployments: Mapping[str, Object]
    pods: Sequence[Object]
    failures: Sequence[Failure] = ()
    left_out: Sequence[str] = ()
    unknown_load: str | None = None
    is_prefetching: bool = False
    waits_for_turn: bool = False
    jobs: Sequence[Object] = ()
    image_pulls: Sequence[Object] = ()
    serving_in_head: int | None = None
    is_outdated: bool = False
    rejected: InvalidSpec | None = None
    loras: Mapping[str, Sequence[ObservedLora]] = field(default_factory=dict)
    endpoints: Mapping[str, ObservedEndpoint] = field(default_factory=dict)

    @property
    def major_failures(self) -> Sequence[Failure]:
        """The failures that keep the pipeline from being ready."""
        return [failure for failure in self.failures if not failure.is_minor]


@dataclass(frozen=True)
class DeploymentState:
    """The pods of one Deployment, counted, and its trouble.

    replicas, ready, updated: pods that exist, are ready, and run the current spec
    is_current: whether the counts are about the current generation; older counts say nothing about it
    trouble: the most urgent one
    is_late: whether a rollout has passed its deadline
    has_all_replicas: whether no replica inside a ready pod is missing, as far as that is known
    """

    process: Process
    replicas: int
    ready: int
    updated: int
    is_current: bool
    trouble: Trouble | None
    is_late: bool
    has_all_replicas: bool

    @property
    def title(self) -> str:
        return "the head" if self.process.is_head else f"stage {self.process.stage.name}"

    @property
    def is_settled(self) -> bool:
        """Whether exactly the desired pods exist, run the current spec and serve."""
        has_desired_pods = self.replicas == self.ready == self.updated == self.process.copies
        return self.is_current and self.has_all_replicas and has_desired_pods

    @property
    def is_stuck(self) -> bool:
        """Whether it makes no progress until a person acts."""
        return self.is_late or (self.trouble is not None and self.trouble.needs_a_person)

    @property
    def is_rolling(self) -> bool:
        return self.is_current and self.updated < min(self.replicas, self.process.copies)


def deployment_state(process: Process, observed: Observed, now: str) -> DeploymentState:
    """The state of the Deployment of a process, which may not exist yet. `now` is RFC 3339."""
    deployment = observed.deployments.get(process.name) or {}
    counts = deployment.get("status") or {}
    is_current = bool(deployment) and counts.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    missing = missing_in_head(process, observed)
    pods = [pod for pod in observed.pods if is_pod_of(pod, process)]
    pods.sort(key=lambda pod: str(pod["metadata"]["name"]))  # so that the same pods give the same message
    trouble = most_urgent_trouble(pods, deployment, missing, now)
    return DeploymentState(
        process=process,
        replicas=counts.get("replicas", 0),
        ready=counts.get("readyReplicas", 0),
        updated=counts.get("updatedReplicas", 0) if is_current else 0,
        is_current=is_current,
        trouble=trouble,
        is_late=is_late(deployment) and not (trouble and trouble.rank == GATED),
        has_all_replicas=not missing,
    )


def is_late(deployment: Object) -> bool:
    """Whether a rollout has passed its deadline."""
    return any(trouble.reason == DEADLINE_EXCEEDED for trouble in deployment_troubles(deployment))


def missing_in_head(process: Process, observed: Observed) -> int:
    """Replicas inside the head that do not serve. The head can be ready without them, while others serve."""
    if not process.is_head or observed.serving_in_head is None:
        return 0
    return max(0, len(process.data_ports) - observed.serving_in_head)


def is_pod_of(pod: Object, process: Process) -> bool:
    """Whether a pod of the pipeline is one of this process."""
    labels = pod["metadata"].get("labels") or {}
    role = labels.get(ROLE)
    if process.is_head:
        return role not in (REPLICA, PREFETCH, IMAGE_PULL)
    return role == REPLICA and labels.get(STAGE) == process.stage.name


def has_ended(pod: Object) -> bool:
    """Whether no container of a pod runs any more, though the pod still exists."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def most_urgent_trouble(pods: Sequence[Object], deployment: Object, missing: int, now: str) -> Trouble | None:
    """The most urgent trouble of a Deployment, its pods, and the `missing` replicas inside them."""
    relevant = without_replaced(pods)
    troubles = [trouble for pod in relevant if (trouble := pod_trouble(pod) or termination_trouble(pod, now))]
    troubles += deployment_troubles(deployment)
    if missing:
        what = "a replica inside it does" if missing == 1 else f"{missing} replicas inside it do"
        troubles.append(Trouble(REPLICA_DOWN, "ReplicaDown", f"{what} not serve; it starts them again, see its log"))
    return min(troubles, key=lambda trouble: trouble.rank, default=None)


def without_replaced(pods: Sequence[Object]) -> list[Object]:
    """The pods of a Deployment without those that failed and were replaced.

    A Deployment replaces each pod that fails, for instance when its node shuts down, and keeps the failed one for
    people to read. A failure matters only if the replacement failed too, and no younger pod serves.
    """
    ready_since = max((created_at(pod) for pod in pods if is_pod_ready(pod)), default="")
    failures = [created_at(pod) for pod in pods if has_failed(pod) and created_at(pod) > ready_since]
    first_failure = min(failures, default="")
    return [pod for pod in pods if not has_failed(pod) or created_at(pod) > max(first_failure, ready_since)]


def created_at(pod: Object) -> str:
    """RFC 3339."""
    return str(pod["metadata"].get("creationTimestamp", ""))


def deployment_troubles(deployment: Object) -> Iterator[Trouble]:
    """The troubles in the conditions of a Deployment."""
    for condition in (deployment.get("status") or {}).get("conditions") or []:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            yield Trouble(REFUSED, "PodsRefused", f"the cluster refuses its pods: {condition.get('message', '')}")
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            yield Trouble(LATE, DEADLINE_EXCEEDED, "its pods did not become ready in time; see their logs")


def prefetch_trouble(observed: Observed) -> Trouble | None:
    """The most urgent trouble of the Jobs that download the models."""
    fetching = [pod for pod in observed.pods if (pod["metadata"].get("labels") or {}).get(ROLE) == PREFETCH]
    troubles = [trouble for pod in fetching if (trouble := pod_trouble(pod))]
    troubles += [
        Trouble(CRASHING, "PrefetchFailed", f"the Job {job['metadata']['name']} has given up; another one starts")
        for job in observed.jobs
        if has_given_up(job)
    ]
    troubles += [
        Trouble(GATED, "WaitingForQuota", f"the Job {job['metadata']['name']} is suspended until there is quota")
        for job in observed.jobs
        if (job.get("spec") or {}).get("suspend")
    ]
    return min(troubles, key=lambda trouble: trouble.rank, default=None)
