"""Plans what to do about one pipeline's children: which to apply, which to delete, which are not ours to change. Pure.

An object is applied if its desired content has changed (by hash), or if the live object lacks a part of it. Fields that
others own do not matter. So the plan of a settled pipeline is empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omni_operator.crd.objects import FIELD_MANAGER, Object, Reference
from omni_operator.crd.quantities import parse_quantity
from omni_operator.planning.manifests.ownership import SPEC_HASH, controller_uid, is_ours


@dataclass(frozen=True)
class Plan:
    """What the controller executes, in this order.

    apply: the desired objects that do not exist or differ
    adopted: the uid of each desired object that exists; applying one that is ours may take over our fields by force
    delete: live objects of ours that are no longer desired
    conflicts: desired objects whose name belongs to somebody else
    handed_over: live Deployments whose replicas we set so far, and from now on an autoscaler sets
    """

    apply: tuple[Object, ...]
    adopted: Mapping[Reference, str]
    delete: tuple[Object, ...]
    conflicts: tuple[Reference, ...]
    handed_over: Mapping[Reference, Object]

    @property
    def has_work(self) -> bool:
        return bool(self.apply or self.delete)

    def with_live_uid(self, child: Object) -> Object:
        """An object to apply, with the uid of the live one, so that no other object of the same name is changed."""
        uid = self.adopted.get(reference(child))
        return with_metadata(child, uid=uid) if uid else child

    def without(self, ref: Reference) -> "Plan":
        """The plan without applying one object."""
        return replace(self, apply=tuple(child for child in self.apply if reference(child) != ref))


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
            if ref not in desired_by_reference and is_deletable(child, uid)
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
    has_same_hash = annotations.get(SPEC_HASH) == desired["metadata"]["annotations"][SPEC_HASH]
    return not has_same_hash or not contains(live, desired)


def contains(live: Any, desired: Any) -> bool:
    """Whether a live value has all of a desired one. The server may add fields, drop empty ones, rewrite quantities."""
    if isinstance(desired, Mapping):
        if not isinstance(live, Mapping):
            return not desired and live is None
        return all(contains(live.get(key), value) for key, value in desired.items())
    if isinstance(desired, list):
        return contains_items(live or [], desired)
    if not desired:
        return not live
    return bool(live == desired) or same_quantity(live, desired)


def contains_items(live: Any, desired: list[Any]) -> bool:
    """Items with an identity may be among others. A list of plain values must be equal."""
    if not isinstance(live, list):
        return False
    if desired and all(isinstance(item, Mapping) and any(identity(item)) for item in desired):
        live_items = {identity(item): item for item in live if isinstance(item, Mapping)}
        return all(contains(live_items.get(identity(item)), item) for item in desired)
    return len(live) == len(desired) and all(map(contains, live, desired))


def identity(item: Mapping[str, Any]) -> tuple[Any, ...]:
    """What identifies an item in a list of a pod, a Service, or owner references."""
    return tuple(item.get(key) for key in ("uid", "name", "mountPath"))


def same_quantity(one: Any, other: Any) -> bool:
    """Whether two Kubernetes quantities are equal: `1000m` equals `1`, and `1024Mi` equals `1Gi`."""
    if not isinstance(one, str | int | float) or not isinstance(other, str | int | float):
        return False
    amount = parse_quantity(str(one))
    return amount is not None and amount == parse_quantity(str(other))
