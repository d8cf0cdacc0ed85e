"""Brings one pipeline closer to its spec: observe, plan, apply, report. Blocking; one call is one pass.

A pass takes the pipeline and its children from the watches and reads the Secret. Before its first change it reads the
pipeline again. Each write is bound to the object that was seen: if another object has its name, the server rejects the
write. If one child cannot be created, the others still are; the status says why, and Incomplete asks for another pass.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from omni_operator.controller.dry_run import dry_run
from omni_operator.controller.errors import Incomplete, NameConflict, PipelineChanged
from omni_operator.controller.executor import execute, mark_pods_to_remove
from omni_operator.controller.heads.autoscaler import Autoscaler
from omni_operator.controller.heads.head_poller import HeadPoller
from omni_operator.controller.metrics import OperatorMetrics, seconds_to_ready
from omni_operator.controller.pipeline_secret import shared_secret
from omni_operator.controller.snapshot import Snapshot
from omni_operator.controller.watches.informers import Informers
from omni_operator.crd.objects import Object, Reference
from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.status_types import Status
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError
from omni_operator.kube.resources import EVENTS, OPTIONAL_KINDS, PIPELINES, Resource
from omni_operator.planning.events import event_object, status_events
from omni_operator.planning.manifests import children
from omni_operator.planning.observed import Failure, Observed
from omni_operator.planning.plan import make_plan, reference
from omni_operator.planning.rollout import deployments_waiting_for_prefetch, head_must_wait
from omni_operator.planning.status import accepted_status, rejected_status
from omni_operator.planning.topology.cluster import cluster_topology
from omni_operator.planning.topology.records import Topology

logger = logging.getLogger(__name__)


def utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Outcome:
    """What a pass changed, and what it could not.

    missing_kinds: kinds of children that this cluster does not have
    is_prefetching: whether pods wait until the pipeline's models are downloaded
    """

    applied: Sequence[Object] = ()
    failures: Sequence[Failure] = ()
    missing_kinds: tuple[str, ...] = ()
    is_prefetching: bool = False


@dataclass(frozen=True)
class Reconciler:
    """Makes passes over pipelines. Thread-safe, but two passes over the same pipeline must not overlap.

    `worker_image` is the default image of the pods; `now` returns the time in RFC 3339.
    """

    cluster: Cluster
    informers: Informers
    autoscaler: Autoscaler
    head_poller: HeadPoller
    metrics: OperatorMetrics
    worker_image: str
    now: Callable[[], str] = utc_now

    def reconcile(self, namespace: str, name: str) -> None:
        """Make one pass. Every exception means that the caller must retry; Incomplete is an expected one."""
        key = (namespace, name)
        manifest = self.informers.pipeline(key) or self.cluster.get(PIPELINES, namespace, name)
        while manifest and not manifest["metadata"].get("deletionTimestamp"):
            try:
                self._reconcile_manifest(manifest)
                return
            except PipelineChanged as change:
                if change.current is None:
                    self.informers.remove_pipeline(manifest)
                else:
                    self.informers.put_pipeline(change.current)
                manifest = change.current
        # The pipeline is deleted, or about to be. The server deletes its children, because it owns them.
        self.autoscaler.forget(key)
        self.head_poller.forget(key)
        self.metrics.set_pipeline(namespace, name, None)

    def _reconcile_manifest(self, manifest: Object) -> None:
        """Raises PipelineChanged before any change if the manifest is out of date; Incomplete."""
        previous = manifest.get("status") or {}
        try:
            pipeline = parse(manifest)
        except InvalidSpec as invalid:
            generation = manifest["metadata"].get("generation", 0)
            self._report(manifest, rejected_status(generation, invalid, previous, self.now()))
            return
        snapshot = self._observe(manifest, pipeline)
        counts = self.autoscaler.counts(pipeline, snapshot.pods_by_stage)
        topology = cluster_topology(pipeline, counts.pods)
        outcome = Outcome()
        if not pipeline.spec.paused:
            try:
                outcome = self._converge(snapshot, topology)
            except InvalidSpec as invalid:
                generation = pipeline.metadata.generation
                self._report(manifest, rejected_status(generation, invalid, previous, self.now()))
                return
        for child in outcome.applied:
            self.informers.put_child(child)
        current = snapshot.children_by_reference | {reference(child): child for child in outcome.applied}
        observed = Observed(
            deployments={name: child for (kind, name), child in current.items() if kind == "Deployment"},
            pods=snapshot.pods,
            failures=(*watch_failures(snapshot), *outcome.failures),
            left_out=outcome.missing_kinds,
            is_prefetching=outcome.is_prefetching,
            unknown_load=counts.unknown,
            serving_in_head=self.head_poller.serving(pipeline, is_head_ready(topology, current)),
        )
        self._report(manifest, accepted_status(pipeline, topology, observed, previous, self.now()))
        if observed.failures:
            raise Incomplete("; ".join(failure.message for failure in observed.failures))

    def _observe(self, manifest: Object, pipeline: OmniPipeline) -> Snapshot:
        key = (pipeline.namespace, pipeline.name)
        return Snapshot(
            manifest,
            pipeline,
            self.informers.children(key),
            self.informers.pods(key),
            self.informers.refusals(pipeline.namespace),
        )

    def _converge(self, snapshot: Snapshot, topology: Topology) -> Outcome:
        """Create, change and delete children as the spec requires. Leaves out the kinds that cannot be watched.

        Raises before any change: InvalidSpec if the server would reject the pods of the user's templates;
        PipelineChanged.
        """
        pipeline, live = snapshot.pipeline, snapshot.children
        require_unchanged_once = cache(lambda: require_unchanged(self.cluster, snapshot.manifest))
        try:
            secret = shared_secret(self.cluster, pipeline, require_unchanged_once)
        except (NameConflict, ApiError) as error:
            # Without the secret, pods could not join each other, so the pass changes nothing.
            return Outcome(failures=[secret_failure(error)])
        resources = {
            kind: resource for kind, resource in self.cluster.child_resources.items() if kind not in snapshot.refusals
        }
        desired, missing = supported_children(children(pipeline, topology, self.worker_image, secret), resources)
        plan = make_plan(desired, live, pipeline.metadata.uid, pipeline.name)
        if plan.has_work:
            require_unchanged_once()
        dry_run(self.cluster, pipeline, topology, plan)
        if head_must_wait(desired, live):
            plan = plan.without(("Deployment", topology.head.name))
        waiting = deployments_waiting_for_prefetch(desired, live)
        for deployment in waiting:
            plan = plan.without(deployment)
        mark_pods_to_remove(self.cluster, snapshot, topology, plan)
        applied, failures = execute(self.cluster, pipeline, plan)
        missing_kinds = tuple(kind for kind in missing if kind not in snapshot.refusals)
        return Outcome(applied, failures, missing_kinds, bool(waiting))

    def _report(self, manifest: Object, status: Status) -> None:
        """Write the status if it changed, and create Events for the changes."""
        now = self.now()
        self.metrics.set_pipeline(manifest["metadata"]["namespace"], manifest["metadata"]["name"], status)
        content = status.model_dump(by_alias=True, mode="json", exclude_none=True)
        if content == manifest.get("status"):
            return
        self.informers.put_pipeline(self.cluster.write_status(manifest, content), notify=False)
        seconds = seconds_to_ready(manifest, status)
        if seconds is not None:
            self.metrics.pipeline_ready_seconds.observe(seconds)
        for change in status_events(manifest.get("status") or {}, status):
            try:
                self.cluster.create(EVENTS, event_object(manifest, change, now))
            except ApiError as error:  # not important: the status says the same
                logger.info("no Event of %s: %s", change.reason, error)


def require_unchanged(cluster: Cluster, manifest: Object) -> None:
    """Raises PipelineChanged if the pipeline now has another spec, is being deleted, or no longer exists."""
    current = cluster.get(PIPELINES, manifest["metadata"]["namespace"], manifest["metadata"]["name"])
    if current is None or version_of(current) != version_of(manifest):
        raise PipelineChanged(current)


def version_of(manifest: Object) -> tuple[str, int | None, str | None]:
    """What changes whenever a pipeline is created again, edited, or deleted; not when its status changes."""
    metadata = manifest["metadata"]
    return metadata["uid"], metadata.get("generation"), metadata.get("deletionTimestamp")


def supported_children(
    desired: Sequence[Object], resources: Mapping[str, Resource]
) -> tuple[list[Object], tuple[str, ...]]:
    """The desired children in the API versions of `resources`, and the kinds that are missing there."""
    supported = [child for child in desired if child["kind"] in resources]
    missing = dict.fromkeys(child["kind"] for child in desired if child["kind"] not in resources)
    return [{**child, "apiVersion": resources[child["kind"]].api_version} for child in supported], tuple(missing)


def is_head_ready(topology: Topology, current: Mapping[Reference, Object]) -> bool:
    head = current.get(("Deployment", topology.head.name)) or {}
    return bool((head.get("status") or {}).get("readyReplicas"))


def watch_failures(snapshot: Snapshot) -> list[Failure]:
    """One failure for each kind that the operator needs to watch for this pipeline, and may not."""
    return [
        Failure(error.reason, f"no {kind} can be looked after: {error}", kind in OPTIONAL_KINDS)
        for kind, error in snapshot.refusals.items()
        if kind not in OPTIONAL_KINDS or snapshot.pipeline.spec.monitoring.pod_monitor
    ]


def secret_failure(error: NameConflict | ApiError) -> Failure:
    """Why the pipeline has no usable Secret."""
    if isinstance(error, NameConflict):
        return Failure("NameConflict", str(error))
    return Failure(error.reason, f"the pipeline's Secret cannot be read or made: {error}")
