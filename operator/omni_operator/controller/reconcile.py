"""One pipeline, brought towards its spec: observe, plan, apply, report. Blocking; one call is one pass.

A pass takes the pipeline and its children from the watches, and asks for the Secret; before it changes anything, it
asks for the pipeline anew. What it writes is bound to what it saw: it is refused where something else has the name.
Where a child cannot be made, the others still are, the status says why, and `Incomplete` asks for another pass.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from omni_operator.controller.dry_run import rehearse
from omni_operator.controller.heads.autoscaler import Scaler
from omni_operator.controller.heads.head_api import UnknownLoad, read_pods
from omni_operator.controller.heads.head_poller import Heads
from omni_operator.controller.metrics import OperatorMetrics, seconds_to_ready
from omni_operator.controller.pipeline_secret import NotOurs, shared_secret
from omni_operator.controller.watches.informers import Observer
from omni_operator.crd.objects import FIELD_MANAGER, Object, Reference
from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.status_types import Status
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError
from omni_operator.kube.resources import EVENTS, OPTIONAL_KINDS, PIPELINES, PODS, Resource
from omni_operator.planning.events import event_object, status_events
from omni_operator.planning.manifests import children
from omni_operator.planning.manifests.ownership import is_ours
from omni_operator.planning.observed import Failure, Observed, is_pod_of
from omni_operator.planning.plan import Plan, make_plan, reference, with_metadata
from omni_operator.planning.rollout import deployments_waiting_for_prefetch, head_must_wait
from omni_operator.planning.scale_down import DELETION_COST, deletion_cost_changes, is_deletion_cost_supported
from omni_operator.planning.status import accepted_status, rejected_status
from omni_operator.planning.topology.cluster import cluster_topology
from omni_operator.planning.topology.records import Topology

logger = logging.getLogger(__name__)

HANDOVER = f"{FIELD_MANAGER}-handover"


class Incomplete(Exception):
    """Something is left to do that only another pass can."""


class Outdated(Exception):
    """The pipeline is not what it was taken for; `now` is what it is, None where it is gone."""

    def __init__(self, now: Object | None) -> None:
        super().__init__("the pipeline has changed")
        self.now = now


def utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def reconcile(
    cluster: Cluster,
    observer: Observer,
    scaler: Scaler,
    heads: Heads,
    metrics: OperatorMetrics,
    namespace: str,
    name: str,
    worker_image: str,
    now: Callable[[], str] = utc_now,
) -> None:
    """Bring one pipeline towards its spec. Whatever it raises is to be retried; Incomplete is expected."""
    key = (namespace, name)
    found = observer.pipeline(key) or cluster.get(PIPELINES, namespace, name)
    while found and not found["metadata"].get("deletionTimestamp"):
        try:
            attempt(cluster, observer, scaler, heads, metrics, found, worker_image, now)
            return
        except Outdated as outdated:
            if outdated.now is None:
                observer.lost(found)
            else:
                observer.saw(outdated.now)
            found = outdated.now
    scaler.forget(key)
    heads.forget(key)
    metrics.show(namespace, name, None)  # its children go with it: they are owned


def attempt(
    cluster: Cluster,
    observer: Observer,
    scaler: Scaler,
    heads: Heads,
    metrics: OperatorMetrics,
    found: Object,
    worker_image: str,
    now: Callable[[], str],
) -> None:
    """A pass over the pipeline that was found. Raises Outdated, and has changed nothing, where it is another by now."""
    previous = found.get("status") or {}
    try:
        pipeline = parse(found)
    except InvalidSpec as invalid:
        generation = found["metadata"].get("generation", 0)
        report(cluster, observer, metrics, found, rejected_status(generation, invalid, previous, now()), now())
        return
    key = (pipeline.namespace, pipeline.name)
    live, pods = observer.children(key), observer.pods(key)
    refused = observer.unseen(pipeline.namespace)
    unseen = [
        Failure(error.reason, f"no {kind} can be looked after: {error}", kind in OPTIONAL_KINDS)
        for kind, error in refused.items()
        if kind not in OPTIONAL_KINDS or pipeline.spec.monitoring.pod_monitor
    ]
    counts = scaler.counts(pipeline, pods_asked_for(pipeline, live))
    topology = cluster_topology(pipeline, counts.pods)
    done = Done()
    if not pipeline.spec.paused:
        try:
            done = converge(cluster, pipeline, found, topology, worker_image, live, pods, refused)
        except InvalidSpec as invalid:
            status = rejected_status(pipeline.metadata.generation, invalid, previous, now())
            report(cluster, observer, metrics, found, status, now())
            return
    for child in done.applied:
        observer.wrote(child)
    failures = (*unseen, *done.failures)
    current = {reference(child): child for child in [*live, *done.applied]}
    observed = Observed(
        deployments={child_name: child for (kind, child_name), child in current.items() if kind == "Deployment"},
        pods=pods,
        failures=failures,
        left_out=done.left_out,
        is_prefetching=done.is_prefetching,
        unknown_load=counts.unknown,
        serving_in_head=heads.serving(pipeline, is_head_ready(topology, current)),
    )
    report(cluster, observer, metrics, found, accepted_status(pipeline, topology, observed, previous, now()), now())
    if failures:
        raise Incomplete("; ".join(failure.message for failure in failures))


@dataclass(frozen=True)
class Done:
    """What a pass did: the objects it applied, what it could not do, the kinds that this cluster does not have, and
    whether it left pods out until their models are there."""

    applied: Sequence[Object] = ()
    failures: Sequence[Failure] = ()
    left_out: tuple[str, ...] = ()
    is_prefetching: bool = False


def converge(
    cluster: Cluster,
    pipeline: OmniPipeline,
    read: Object,
    topology: Topology,
    worker_image: str,
    live: Sequence[Object],
    pods: Sequence[Object],
    unseen: Collection[str],
) -> Done:
    """Make the children what they should be. Leaves the kinds alone that could not be looked at. `read`: the pipeline.

    Raises InvalidSpec, and has done nothing, where the API server would refuse pods of the user's templates; Outdated.
    """
    confirm = cache(lambda: require_current(cluster, read))  # once a pass
    try:
        secret = shared_secret(cluster, pipeline, confirm)
    except (NotOurs, ApiError) as error:
        # And all else stays as it is: pods without it would not find each other.
        return Done(failures=[secret_failure(error)])
    seen = {kind: resource for kind, resource in cluster.child_resources.items() if kind not in unseen}
    wanted, missing = fitted(children(pipeline, topology, worker_image, secret), seen)
    plan = make_plan(wanted, live, pipeline.metadata.uid, pipeline.name)
    if plan.has_work:
        confirm()
    rehearse(cluster, pipeline, topology, plan)
    if head_must_wait(wanted, live):
        plan = plan.without(("Deployment", topology.head.name))
    waiting = deployments_waiting_for_prefetch(wanted, live)
    for held in waiting:
        plan = plan.without(held)
    mark_victims(cluster, pipeline, topology, plan, live, pods)
    applied, failures = execute(cluster, pipeline, plan)
    return Done(applied, failures, tuple(kind for kind in missing if kind not in unseen), bool(waiting))


def require_current(cluster: Cluster, read: Object) -> None:
    """Raise Outdated where the pipeline has another spec than was read, or is gone."""
    now = cluster.get(PIPELINES, read["metadata"]["namespace"], read["metadata"]["name"])
    versions = [
        (one["metadata"]["uid"], one["metadata"].get("generation"), one["metadata"].get("deletionTimestamp"))
        for one in (read, now)
        if one
    ]
    if versions[1:] != versions[:1]:
        raise Outdated(now)


def is_head_ready(topology: Topology, current: Mapping[Reference, Object]) -> bool:
    head = current.get(("Deployment", topology.head.name)) or {}
    return bool((head.get("status") or {}).get("readyReplicas"))


def fitted(wanted: Sequence[Object], resources: Mapping[str, Resource]) -> tuple[list[Object], tuple[str, ...]]:
    """What is wanted, in the versions that the API server has; and the kinds that it does not have."""
    there = [child for child in wanted if child["kind"] in resources]
    missing = dict.fromkeys(child["kind"] for child in wanted if child["kind"] not in resources)
    return [{**child, "apiVersion": resources[child["kind"]].api_version} for child in there], tuple(missing)


def pods_asked_for(pipeline: OmniPipeline, live: list[Object]) -> dict[str, int]:
    """The count in the Deployment of each stage that has one."""
    found = {reference(child): child for child in live}
    stages = {stage.name: ("Deployment", f"{pipeline.name}-{stage.name}") for stage in pipeline.spec.stages}
    return {name: found[ref]["spec"].get("replicas", 1) for name, ref in stages.items() if ref in found}


def hand_over_count(cluster: Cluster, live: Mapping[str, Any]) -> None:
    """Leave the count of a Deployment to whoever writes it next. It would fall to 1 if all who set it let go."""
    metadata = {key: live["metadata"][key] for key in ("namespace", "name", "uid")}
    # One at the least: a HorizontalPodAutoscaler does nothing where there is none, as after a suspension.
    spec = {"replicas": max(1, live["spec"]["replicas"])}
    count = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": metadata, "spec": spec}
    cluster.apply(cluster.child_resources[live["kind"]], count, True, HANDOVER)


def mark_victims(
    cluster: Cluster,
    pipeline: OmniPipeline,
    topology: Topology,
    plan: Plan,
    found: Sequence[Object],
    pods: Sequence[Object],
) -> None:
    """Have the least loaded pods go first where a stage gets fewer. Without, Kubernetes chooses; they drain anyway."""
    live = {reference(child): child for child in found}
    wanted = {reference(child): child["spec"].get("replicas") for child in plan.apply if child["kind"] == "Deployment"}
    for process in topology.replicas:
        ref = ("Deployment", process.name)
        kept = wanted.get(ref)
        if not kept or ref not in live or kept >= live[ref]["spec"].get("replicas", 1):
            continue
        own = {pod["metadata"]["name"]: pod for pod in pods if is_pod_of(pod, process)}
        try:
            if not is_deletion_cost_supported(cluster.version):
                return
            loads = read_pods(cluster, pipeline, process.stage.name)
            for name, mark in deletion_cost_changes(list(own.values()), loads, kept).items():
                metadata = {"uid": own[name]["metadata"]["uid"], "annotations": {DELETION_COST: mark}}
                cluster.merge(PODS, pipeline.namespace, name, {"metadata": metadata})
                logger.info("marked Pod %s/%s: %s", pipeline.namespace, name, mark or "stays")
        except (ApiError, UnknownLoad) as error:
            logger.warning("%s/%s: Kubernetes chooses the pods that go: %s", pipeline.namespace, process.name, error)


def secret_failure(error: NotOurs | ApiError) -> Failure:
    """Why there is no Secret."""
    if isinstance(error, NotOurs):
        return Failure("NameConflict", str(error))
    return Failure(error.reason, f"the pipeline's Secret cannot be read or made: {error}")


def execute(cluster: Cluster, pipeline: OmniPipeline, plan: Plan) -> tuple[list[Object], list[Failure]]:
    """Do what is planned, as far as the API server lets us. Returns what was applied, and what could not be."""
    applied: list[Object] = []
    failures = [name_conflict(kind, name) for kind, name in plan.conflicts]
    for child in plan.apply:
        kind, name = reference(child)
        try:
            if (kind, name) in plan.handed_over:
                hand_over_count(cluster, plan.handed_over[kind, name])
            if (kind, name) in plan.adopted:
                applied.append(cluster.apply(cluster.child_resources[kind], plan.bound(child), force=True))
            else:
                applied.append(make(cluster, pipeline, child))
            logger.info("applied %s %s/%s", kind, child["metadata"]["namespace"], name)
        except NotOurs:
            failures.append(name_conflict(kind, name))
        except ApiError as error:
            if error.is_race:
                raise
            failures.append(Failure(error.reason, f"{kind} {name} cannot be made: {error}", kind in OPTIONAL_KINDS))
    for child in plan.delete:
        kind, name = reference(child)
        try:
            cluster.delete(cluster.child_resources[kind], child)
            logger.info("deleted %s %s/%s, which is no longer wanted", kind, child["metadata"]["namespace"], name)
        except ApiError as error:
            message = f"{kind} {name} is no longer wanted but cannot be deleted: {error}"
            failures.append(Failure(error.reason, message, kind in OPTIONAL_KINDS))
    return applied, failures


def name_conflict(kind: str, name: str) -> Failure:
    return Failure(
        "NameConflict", f"{kind} {name} exists and is not ours; rename it, or the pipeline", kind in OPTIONAL_KINDS
    )


def make(cluster: Cluster, pipeline: OmniPipeline, child: Mapping[str, Any]) -> Object:
    """Make a child that the watches know nothing of. Raises NotOurs, ApiError.

    Something may have its name all the same. So it is applied as an object of a version that none has, which the server
    does for a new one alone; Services it makes in no such way. Only where that is refused is it asked what is there.
    """
    resource, name = cluster.child_resources[child["kind"]], child["metadata"]["name"]
    if child["kind"] != "Service":
        try:
            return cluster.apply(resource, with_metadata(child, resourceVersion="1"), force=False)
        except ApiError as error:
            if error.status != 409:
                raise
    there = cluster.get(resource, pipeline.namespace, name)
    if there is None:
        return cluster.apply(resource, child, force=False)
    if not is_ours(there, pipeline.metadata.uid, pipeline.name):
        raise NotOurs(f"{child['kind']} {name}")
    return cluster.apply(resource, with_metadata(child, uid=there["metadata"]["uid"]), force=True)


def report(
    cluster: Cluster,
    observer: Observer,
    metrics: OperatorMetrics,
    found: Mapping[str, Any],
    status: Status,
    now: str,
) -> None:
    """Write the status, if it says something new, and make Events of what is news in it."""
    metrics.show(found["metadata"]["namespace"], found["metadata"]["name"], status)
    content = status.model_dump(by_alias=True, mode="json", exclude_none=True)
    if content == found.get("status"):
        return
    observer.saw(cluster.write_status(found, content), is_told=False)
    took = seconds_to_ready(found, status)
    if took is not None:
        metrics.ready.observe(took)
    for told in status_events(found.get("status") or {}, status):
        try:
            cluster.create(EVENTS, event_object(found, told, now))
        except ApiError as error:  # of no consequence: the status says the same
            logger.info("no Event of %s: %s", told.reason, error)
