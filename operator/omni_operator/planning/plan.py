"""Plans what to do about one pipeline's children: which to apply, which to delete, which are not ours to change. Pure.

An object is applied if its desired content has changed (by hash), or if somebody has changed a part of it. Fields that
others own do not matter. So the plan of a settled pipeline is empty.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from omni_operator.crd.objects import FIELD_MANAGER, Object, Reference
from omni_operator.planning.drift import has_drifted
from omni_operator.planning.manifests.ownership import SPEC_HASH, controller_uid, is_ours


@dataclass(frozen=True)
class Plan:
    """What the controller executes, in this order.

    apply: the desired objects that do not exist or differ
    adopted: the uid of each desired object that exists; applying one that is ours may take over our fields by force
    delete: live objects of ours that are no longer desired, or that have failed for good and are created again
    conflicts: desired objects whose name belongs to somebody else
    handed_over: live Deployments whose replicas we set so far, and from now on an autoscaler sets
    scale: the counts of live Deployments of ours that are not applied yet, but scaled
    """

    apply: tuple[Object, ...]
    adopted: Mapping[Reference, str]
    delete: tuple[Object, ...]
    conflicts: tuple[Reference, ...]
    handed_over: Mapping[Reference, Object]
    scale: Mapping[Reference, int] = field(default_factory=dict)

    @property
    def has_work(self) -> bool:
        return bool(self.apply or self.delete or self.scale)

    @property
    def is_empty(self) -> bool:
        """Whether every desired object is there as it should be, and no other."""
        return not (self.has_work or self.conflicts or self.handed_over)

    def scaling(self, held: Collection[Reference], live: Sequence[Object]) -> "Plan":
        """The plan that neither applies nor deletes these, and sets the counts of the Deployments among them."""
        current, wanted = pod_counts(live), pod_counts(self.apply)
        changed = {ref: count for ref in held if ref in current and (count := wanted.get(ref)) is not None}
        changed = {ref: count for ref, count in changed.items() if count != current[ref]}
        apply, delete = (
            tuple(child for child in children if reference(child) not in held) for children in (self.apply, self.delete)
        )
        return replace(self, apply=apply, delete=delete, scale=changed)

    def with_live_uid(self, child: Object) -> Object:
        """An object to apply, with the uid of the live one, so that no other object of the same name is changed."""
        uid = self.adopted.get(reference(child))
        return with_metadata(child, uid=uid) if uid else child

    def without(self, ref: Reference) -> "Plan":
        """The plan that neither applies nor deletes one object."""
        apply, delete = (
            tuple(child for child in children if reference(child) != ref) for children in (self.apply, self.delete)
        )
        return replace(self, apply=apply, delete=delete)


def pod_counts(children: Sequence[Object]) -> dict[Reference, int | None]:
    """The count of each Deployment; None if it has none."""
    return {reference(child): child["spec"].get("replicas") for child in children if child["kind"] == "Deployment"}


def with_metadata(child: Object, **metadata: str) -> Object:
    """A copy with these keys in its metadata."""
    return {**child, "metadata": {**child["metadata"], **metadata}}


def reference(child: Object) -> Reference:
    return child["kind"], child["metadata"]["name"]


def make_plan(desired: Sequence[Object], live: Sequence[Object], uid: str, pipeline: str) -> Plan:
    """The plan for the pipeline with this uid and name.

    `live`: every object with the pipeline's labels, and every object with the kind and name of a desired one.
    """
    live_by_reference = {reference(child): child for child in live}
    desired_by_reference = {reference(child): child for child in desired}
    existing = [ref for ref in desired_by_reference if ref in live_by_reference]
    conflicts = [ref for ref in existing if not is_ours(live_by_reference[ref], uid, pipeline)]
    return Plan(
        apply=tuple(
            child
            for ref, child in desired_by_reference.items()
            if ref not in conflicts and differs(child, live_by_reference.get(ref))
        ),
        adopted={ref: str(live_by_reference[ref]["metadata"].get("uid", "")) for ref in existing},
        delete=tuple(
            child
            for ref, child in live_by_reference.items()
            if (ref not in desired_by_reference or has_given_up(child)) and is_deletable(child, uid)
        ),
        conflicts=tuple(conflicts),
        handed_over={
            ref: live_by_reference[ref]
            for ref in existing
            if releases_replicas(desired_by_reference[ref], live_by_reference[ref])
        },
    )


def is_deletable(child: Object, uid: str) -> bool:
    """Whether the pipeline with this uid may delete a child: it owns it, and nobody deletes it already."""
    return controller_uid(child) == uid and not child["metadata"].get("deletionTimestamp")


def has_given_up(child: Object) -> bool:
    """Whether a child is a Job that has used up its attempts."""
    conditions = (child.get("status") or {}).get("conditions") or []
    return child["kind"] == "Job" and any(one["type"] == "Failed" and one["status"] == "True" for one in conditions)


def releases_replicas(desired: Object, live: Object) -> bool:
    """Whether we set the replicas of a live Deployment, and the desired one leaves them to an autoscaler."""
    if desired["kind"] != "Deployment" or "replicas" in desired["spec"] or "replicas" not in live["spec"]:
        return False
    ours = [entry for entry in live["metadata"].get("managedFields") or [] if entry.get("manager") == FIELD_MANAGER]
    return any("f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {}) for entry in ours)


def differs(desired: Object, live: Object | None) -> bool:
    """Whether an object must be applied."""
    if live is None:
        return True
    annotations = live["metadata"].get("annotations") or {}
    return annotations.get(SPEC_HASH) != desired["metadata"]["annotations"][SPEC_HASH] or has_drifted(live, desired)
