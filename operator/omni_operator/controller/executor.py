"""Executes a plan: applies, creates and deletes a pipeline's children, and marks the pods to remove on scale-down.

`planning.plan` decides what to do. If one child fails, the others are still written, and the failure is returned.
"""

import logging
from collections.abc import Sequence

from omni_operator.controller.errors import NameConflict
from omni_operator.controller.heads.head_api import HeadError, requests_by_pod
from omni_operator.controller.snapshot import Snapshot
from omni_operator.crd.objects import FIELD_MANAGER, Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError
from omni_operator.kube.resources import OPTIONAL_KINDS, PODS
from omni_operator.planning.cluster_features import missing_image_volumes
from omni_operator.planning.manifests.ownership import is_ours
from omni_operator.planning.observed import Failure, is_pod_of
from omni_operator.planning.plan import Plan, has_given_up, pod_counts, reference, with_metadata
from omni_operator.planning.scale_down import DELETION_COST, deletion_cost_changes, is_deletion_cost_supported
from omni_operator.planning.topology.records import Topology

logger = logging.getLogger(__name__)

HANDOVER_MANAGER = f"{FIELD_MANAGER}-handover"


def execute(
    cluster: Cluster, pipeline: OmniPipeline, plan: Plan, is_new: bool = False
) -> tuple[list[Object], list[Failure]]:
    """Execute as much of the plan as the API server accepts. Returns the applied objects, and the failures.

    `is_new`: no pass has made anything yet, so objects are created without looking them up first

    Raises ApiError if another client wrote an object at the same time.
    """
    applied: list[Object] = []
    failures = [name_conflict(kind, name) for kind, name in plan.conflicts]
    for child in plan.apply:
        kind, name = reference(child)
        try:
            if (kind, name) in plan.handed_over:
                hand_over_count(cluster, plan.handed_over[kind, name])
            if (kind, name) in plan.adopted:
                applied.append(cluster.apply(cluster.child_resources[kind], plan.with_live_uid(child), force=True))
            else:
                applied.append(create_child(cluster, pipeline, child, is_new))
            logger.info("applied %s %s/%s", kind, child["metadata"]["namespace"], name)
        except NameConflict:
            failures.append(name_conflict(kind, name))
        except ApiError as error:
            if error.is_race:
                raise
            failures.append(write_failure(child, error))
    for (kind, name), count in plan.scale.items():
        try:
            change = {"metadata": {"uid": plan.adopted[kind, name]}, "spec": {"replicas": count}}
            applied.append(cluster.merge(cluster.child_resources[kind], pipeline.namespace, name, change))
            logger.info("scaled %s %s/%s to %d", kind, pipeline.namespace, name, count)
        except ApiError as error:
            failures.append(failure(kind, f"{kind} {name} cannot be scaled: {error}", error))
    for child in plan.delete:
        kind, name = reference(child)
        why = "has given up" if has_given_up(child) else "is no longer wanted"
        try:
            cluster.delete(cluster.child_resources[kind], child)
            logger.info("deleted %s %s/%s, which %s", kind, child["metadata"]["namespace"], name, why)
        except ApiError as error:
            failures.append(failure(kind, f"{kind} {name} {why} but cannot be deleted: {error}", error))
    return applied, failures


def write_failure(child: Object, error: ApiError) -> Failure:
    """Why a child could not be written."""
    kind, name = reference(child)
    general = failure(kind, f"{kind} {name} cannot be made: {error}", error)
    return missing_image_volumes(child, str(error)) or general


def create_child(cluster: Cluster, pipeline: OmniPipeline, child: Object, is_new: bool = False) -> Object:
    """Create a child that the watches have not seen. Raises NameConflict, ApiError.

    An object of its name can still exist. For a new pipeline the server is asked to create the child and nothing else.
    If it cannot, and in every later pass, the object is looked up first: a name that is taken costs no write.
    """
    resource, name = cluster.child_resources[child["kind"]], child["metadata"]["name"]
    if is_new:
        try:
            return cluster.apply_new(resource, child)
        except ApiError as error:
            if error.status != 409 and not error.cannot_only_create:
                raise
    live = cluster.get(resource, pipeline.namespace, name)
    if live is None:
        return cluster.apply(resource, child, force=False)
    if not is_ours(live, pipeline.metadata.uid, pipeline.name):
        raise NameConflict(f"{child['kind']} {name}")
    return cluster.apply(resource, with_metadata(child, uid=live["metadata"]["uid"]), force=True)


def take_back(cluster: Cluster, created: Sequence[Object]) -> None:
    """Delete what the first pass has created, because the API server rejects the pipeline's pods."""
    for child in reversed(created):
        cluster.delete(cluster.child_resources[child["kind"]], child)
        logger.info("deleted %s %s/%s again", child["kind"], child["metadata"]["namespace"], child["metadata"]["name"])


def hand_over_count(cluster: Cluster, live: Object) -> None:
    """Let another field manager own the pod count of a Deployment. Without any owner, the count would fall to 1."""
    metadata = {key: live["metadata"][key] for key in ("namespace", "name", "uid")}
    # At least one: a HorizontalPodAutoscaler ignores a Deployment with zero replicas, as after a suspension.
    spec = {"replicas": max(1, live["spec"]["replicas"])}
    count = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": metadata, "spec": spec}
    cluster.apply(cluster.child_resources[live["kind"]], count, True, HANDOVER_MANAGER)


def mark_pods_to_remove(cluster: Cluster, snapshot: Snapshot, topology: Topology, plan: Plan) -> None:
    """Mark the least loaded pods of each stage that the plan scales down, so that Kubernetes removes those.

    If the loads are unknown, Kubernetes chooses the pods. They drain either way.
    """
    pipeline, live = snapshot.pipeline, snapshot.children_by_reference
    planned = {**pod_counts(plan.apply), **plan.scale}
    for process in topology.replicas:
        deployment = ("Deployment", process.name)
        remaining = planned.get(deployment)
        # Nothing to choose if all pods go, or if the plan does not set the count.
        if not remaining or deployment not in live or remaining >= live[deployment]["spec"].get("replicas", 1):
            continue
        pods = {pod["metadata"]["name"]: pod for pod in snapshot.pods if is_pod_of(pod, process)}
        try:
            if not is_deletion_cost_supported(cluster.version):
                return
            loads = requests_by_pod(cluster, pipeline, process.stage.name)
            for name, cost in deletion_cost_changes(list(pods.values()), loads, remaining).items():
                metadata = {"uid": pods[name]["metadata"]["uid"], "annotations": {DELETION_COST: cost}}
                cluster.merge(PODS, pipeline.namespace, name, {"metadata": metadata})
                logger.info("marked Pod %s/%s: %s", pipeline.namespace, name, cost or "stays")
        except (ApiError, HeadError) as error:
            logger.warning("%s/%s: Kubernetes chooses the pods that go: %s", pipeline.namespace, process.name, error)


def failure(kind: str, message: str, error: ApiError) -> Failure:
    return Failure(error.reason, message, kind in OPTIONAL_KINDS, error.is_transient)


def name_conflict(kind: str, name: str) -> Failure:
    message = f"{kind} {name} exists and is not ours; rename it, or the pipeline"
    return Failure("NameConflict", message, kind in OPTIONAL_KINDS)
