"""Brings one pipeline closer to its spec: observe, plan, apply, report. Blocking; one call is one pass.

A pass takes the pipeline and its children from the watches. Before the first change of what exists it reads the
pipeline again. Each write is bound to the object that was seen: if another object has its name, the server rejects the
write. If one child cannot be created, the others still are; the status says why, and Incomplete asks for another pass.

The first pass over a new pipeline only creates. It looks up nothing and rehearses nothing: what the server answers says
enough, to the Deployments about their templates, and to the status about the pipeline.

A pass that finds nothing to do is remembered by what its plan depended on. While that stays the same, the next passes,
as after changes of the pods, neither build the desired objects nor compare them, and only report.
"""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple

from omni_operator.controller.dry_run import dry_run
from omni_operator.controller.errors import Incomplete, PipelineChanged
from omni_operator.controller.executor import execute, mark_pods_to_remove, take_back
from omni_operator.controller.heads.autoscaler import Autoscaler
from omni_operator.controller.heads.head_poller import HeadPoller
from omni_operator.controller.metrics import OperatorMetrics, seconds_to_ready
from omni_operator.controller.pipeline_secret import PipelineSecrets
from omni_operator.controller.snapshot import Snapshot
from omni_operator.controller.upgrades import Upgrades
from omni_operator.controller.watches.informers import Informers
from omni_operator.crd.objects import Object, PipelineKey, Reference
from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.status_types import Status
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError
from omni_operator.kube.resources import (
    CLAIM_TEMPLATES,
    DAEMON_SETS,
    EVENTS,
    HTTP_ROUTES,
    OPTIONAL_KINDS,
    PIPELINES,
    POD_MONITORS,
    Resource,
)
from omni_operator.planning.cluster_features import missing_device_claims
from omni_operator.planning.events import event_object, status_events
from omni_operator.planning.last_valid_spec import with_last_valid_spec
from omni_operator.planning.manifests import children
from omni_operator.planning.manifests.pod import Surroundings
from omni_operator.planning.observed import Failure, Observed
from omni_operator.planning.plan import make_plan, reference
from omni_operator.planning.rollout import (
    deployments_waiting_for_drain,
    deployments_waiting_for_head,
    following_claims,
    head_must_wait,
    waiting_for_prefetch,
)
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
    is_head_waiting: whether the head waits until the stages have a new image
    waits_for_turn: whether pods wait until other pipelines have what a new operator makes of them
    """

    applied: Sequence[Object] = ()
    failures: Sequence[Failure] = ()
    missing_kinds: tuple[str, ...] = ()
    is_prefetching: bool = False
    is_head_waiting: bool = False
    waits_for_turn: bool = False


class Settled(NamedTuple):
    """A plan without work: what it depended on, and the kinds of children that this cluster does not have."""

    inputs: Hashable
    missing_kinds: tuple[str, ...]


@dataclass(frozen=True)
class Reconciler:
    """Makes passes over pipelines. Thread-safe, but two passes over the same pipeline must not overlap.

    `now` returns the time in RFC 3339.
    """

    cluster: Cluster
    informers: Informers
    autoscaler: Autoscaler
    head_poller: HeadPoller
    upgrades: Upgrades
    metrics: OperatorMetrics
    surroundings: Surroundings
    now: Callable[[], str] = utc_now
    settled: dict[PipelineKey, Settled] = field(default_factory=dict, init=False)

    @cached_property
    def secrets(self) -> PipelineSecrets:
        return PipelineSecrets(self.cluster)

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
        self.upgrades.forget(key)
        self.secrets.forget(key)
        self.settled.pop(key, None)
        self.metrics.set_pipeline(namespace, name, None)

    def _reconcile_manifest(self, manifest: Object) -> None:
        """Raises PipelineChanged if the manifest is out of date, before it changes what exists; Incomplete."""
        try:
            self._follow(manifest, parse(manifest))
        except InvalidSpec as invalid:
            self._follow_last_valid(manifest, invalid)

    def _follow_last_valid(self, manifest: Object, invalid: InvalidSpec) -> None:
        """Make a pass by the last valid spec, as far as it is known, and report why the current one is not valid."""
        if last_valid := with_last_valid_spec(manifest):
            try:
                self._follow(manifest, parse(last_valid), invalid)
                return
            except InvalidSpec as error:
                logger.warning("%s/%s: its last valid spec is not valid any more: %s", *key_of(manifest), error)
        self.upgrades.give_up(key_of(manifest))
        generation, previous = manifest["metadata"].get("generation", 0), manifest.get("status") or {}
        self._report(manifest, rejected_status(generation, invalid, previous, self.now()))

    def _follow(self, manifest: Object, pipeline: OmniPipeline, rejected: InvalidSpec | None = None) -> None:
        """Make a pass by a valid spec. `rejected`: why it is not the one of the manifest.

        Raises before any change: InvalidSpec if the server would reject the pods of the user's templates;
        PipelineChanged. Then, after the report: Incomplete.
        """
        previous = manifest.get("status") or {}
        snapshot = self._observe(manifest, pipeline)
        counts = self.autoscaler.counts(pipeline, snapshot.pods_by_stage)
        topology = cluster_topology(pipeline, counts.pods)
        outcome = Outcome()
        if not pipeline.spec.paused:
            outcome = self._converge(snapshot, topology, counts.pods, may_be_settled=rejected is None)
        self.autoscaler.follow(pipeline, counts)
        if pipeline.spec.paused or outcome.failures:
            self.upgrades.give_up(snapshot.key)
        for child in outcome.applied:
            self.informers.put_child(child)
        current = snapshot.children_by_reference | {reference(child): child for child in outcome.applied}
        unwatched = watch_failures(snapshot)
        has_loras = any(stage.loras for stage in pipeline.spec.stages)
        has_endpoints = any(stage.is_endpoint for stage in pipeline.spec.stages)
        is_polled = bool(pipeline.spec.head.local_replicas) or outcome.is_head_waiting or has_loras or has_endpoints
        head_state = self.head_poller.follow(pipeline, is_polled and is_head_ready(topology, current))
        observed = Observed(
            deployments={name: child for (kind, name), child in current.items() if kind == "Deployment"},
            pods=snapshot.pods,
            image_pulls=[child for (kind, _), child in current.items() if kind == DAEMON_SETS.kind],
            jobs=[child for (kind, _), child in current.items() if kind == "Job"],
            failures=(*unwatched, *outcome.failures),
            left_out=outcome.missing_kinds,
            is_prefetching=outcome.is_prefetching,
            waits_for_turn=outcome.waits_for_turn,
            unknown_load=counts.unknown,
            serving_in_head=head_state.serving if head_state else None,
            loras=head_state.loras if head_state and has_loras else {},
            endpoints=head_state.endpoints if head_state else {},
            rejected=rejected,
        )
        self._report(manifest, accepted_status(pipeline, topology, observed, previous, self.now()))
        # A minor kind that cannot be watched needs no retry: its watch tries again, and asks for a pass when it works.
        needed = [failure for failure in unwatched if not failure.is_minor]
        if unfinished := [*needed, *outcome.failures]:
            raise Incomplete("; ".join(failure.message for failure in unfinished))

    def _observe(self, manifest: Object, pipeline: OmniPipeline) -> Snapshot:
        key = (pipeline.namespace, pipeline.name)
        return Snapshot(
            manifest,
            pipeline,
            *self.informers.children(key),
            self.informers.pods(key),
            self.informers.refusals(pipeline.namespace),
            self.informers.pending_kinds(pipeline.namespace),
        )

    def _converge(
        self, snapshot: Snapshot, topology: Topology, counts: Mapping[str, int], may_be_settled: bool
    ) -> Outcome:
        """Create, change and delete children as the spec requires. Leaves out the kinds that cannot be watched.

        `may_be_settled`: the manifest of the snapshot tells the whole spec

        Raises, with all that existed before unchanged: InvalidSpec if the server rejects the pods of the user's
        templates; PipelineChanged.
        """
        pipeline, live = snapshot.pipeline, snapshot.children
        try:
            keys = self.secrets.name_for(pipeline, live)
        except ApiError as error:
            # Without a Secret, pods could not join each other, so the pass changes nothing.
            return Outcome(failures=[secret_failure(error)])
        settled, inputs = self.settled.pop(snapshot.key, None), snapshot.plan_inputs(counts, keys)
        if may_be_settled and settled and settled.inputs == inputs:
            self.settled[snapshot.key] = settled
            return Outcome(missing_kinds=settled.missing_kinds)
        resources = {
            kind: resource
            for kind, resource in self.cluster.child_resources.items()
            if kind not in snapshot.unwatched_kinds
        }
        wanted = children(pipeline, topology, self.surroundings, keys)
        desired, missing = supported_children(wanted, resources)
        desired = following_claims(desired, live)
        plan = make_plan(desired, live, pipeline.metadata.uid, pipeline.name)
        if not snapshot.is_new and any(reference(child) not in snapshot.children_by_reference for child in plan.apply):
            self.secrets.look_again(snapshot.key)  # which may be deleted too, and is not watched
        plan, waits_for_turn = self.upgrades.plan(snapshot.key, snapshot.manifest, plan, desired, live)
        unsupported = missing_device_claims(topology, self.cluster.child_resources)
        for deployment in unsupported:
            plan = plan.without(deployment)
        if plan.has_work and not snapshot.is_new:
            require_unchanged(self.cluster, snapshot.manifest)
        waiting = waiting_for_prefetch(topology, desired, live)
        missing_kinds = tuple(kind for kind in missing if kind not in snapshot.unwatched_kinds)
        must_look_again = waiting or waits_for_turn or unsupported or self.upgrades.has_turn(snapshot.key)
        if may_be_settled and plan.is_empty and not must_look_again:
            self.settled[snapshot.key] = Settled(inputs, missing_kinds)
        is_rehearsed = not snapshot.is_new or bool(waiting)
        if is_rehearsed:
            dry_run(self.cluster, pipeline, topology, plan)
        whole_plan = plan
        pods, now = snapshot.pods, self.now()
        last_state = self.head_poller.last_state(snapshot.key)
        is_head_waiting = head_must_wait(topology, desired, live, last_state.refusing if last_state else ())
        if is_head_waiting:
            plan = plan.without(("Deployment", topology.head.name))
        plan = plan.scaling(waiting, live)
        draining = deployments_waiting_for_drain(pipeline, topology, pods, now)
        for deployment in (*draining, *deployments_waiting_for_head(topology, plan, live, pods, now)):
            plan = plan.without(deployment)
        mark_pods_to_remove(self.cluster, snapshot, topology, plan)
        applied, failures = execute(self.cluster, pipeline, plan, snapshot.is_new)
        failures += unsupported.values()
        if failures and not is_rehearsed:
            try:
                dry_run(self.cluster, pipeline, topology, whole_plan)
            except InvalidSpec:
                take_back(self.cluster, applied)
                raise
        return Outcome(applied, failures, missing_kinds, bool(waiting), is_head_waiting, waits_for_turn)

    def _report(self, manifest: Object, status: Status) -> None:
        """Write the status if it changed, and create Events for the changes. Raises PipelineChanged afterwards, if the
        answer shows that the pipeline is out of date."""
        now = self.now()
        self.metrics.set_pipeline(*key_of(manifest), status)
        content = status.model_dump(by_alias=True, mode="json", exclude_none=True)
        if content == manifest.get("status"):
            return
        written = self.cluster.write_status(manifest, content)
        self.informers.put_status(written)
        seconds = seconds_to_ready(manifest, status)
        if seconds is not None:
            self.metrics.pipeline_ready_seconds.observe(seconds)
        for change in status_events(manifest.get("status") or {}, status):
            try:
                self.cluster.create(EVENTS, event_object(manifest, change, now))
            except ApiError as error:  # not important: the status says the same
                logger.info("no Event of %s: %s", change.reason, error)
        if version_of(written) != version_of(manifest):
            raise PipelineChanged(written)


def key_of(manifest: Object) -> PipelineKey:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def require_unchanged(cluster: Cluster, manifest: Object) -> None:
    """Raises PipelineChanged if the pipeline now has another spec, is being deleted, or no longer exists."""
    current = cluster.get(PIPELINES, *key_of(manifest))
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
        Failure(
            error.reason,
            f"the operator cannot read objects of kind {kind}, and leaves them as they are: {error}",
            kind in OPTIONAL_KINDS,
        )
        for kind, error in snapshot.refusals.items()
        if may_have(snapshot.pipeline, kind)
    ]


def may_have(pipeline: OmniPipeline, kind: str) -> bool:
    """Whether a pipeline has children of a kind, as far as that depends on its spec."""
    if kind == POD_MONITORS.kind:
        return pipeline.spec.monitoring.pod_monitor is not None
    if kind == HTTP_ROUTES.kind:
        return pipeline.spec.service.route is not None
    if kind == DAEMON_SETS.kind:
        return pipeline.spec.image.prefetch
    if kind == CLAIM_TEMPLATES.kind:
        return any(stage.accelerator and stage.accelerator.device_class_name for stage in pipeline.spec.stages)
    return True


def secret_failure(error: ApiError) -> Failure:
    """Why the pipeline has no Secret."""
    message = f"the pipeline's Secret cannot be made: {error}"
    return Failure(error.reason, message, is_transient=error.is_transient)
