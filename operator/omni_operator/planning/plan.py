"""What to do about one pipeline's children: which to apply, which to delete, which are not ours to touch. Pure.

An object is applied when what is wanted changed (its hash), or when the live one lacks something that is wanted. Fields
that others own are none of our business. So a settled pipeline plans nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omni_operator.crd.objects import FIELD_MANAGER, Object, Reference
from omni_operator.crd.quantities import parse_quantity
from omni_operator.planning.manifests.ownership import SPEC_HASH, controller_uid, is_ours


@dataclass(frozen=True)
class Plan:
    """`adopted` tells which of `apply` exist and are ours, so that our fields may be forced, and their uids;
    `handed_over`, which live Deployments have their count from us and are no longer to."""

    apply: tuple[Object, ...]
    adopted: Mapping[Reference, str]
    delete: tuple[Object, ...]
    conflicts: tuple[Reference, ...]
    handed_over: Mapping[Reference, Object]

    @property
    def has_work(self) -> bool:
        return bool(self.apply or self.delete)

    def bound(self, child: Object) -> Object:
        """A child to apply, with the uid of the one that was seen: no other of its name may be changed."""
        uid = self.adopted.get(reference(child))
        return with_metadata(child, uid=uid) if uid else child

    def without(self, held: Reference) -> "Plan":
        """The plan that leaves one object as it is for now."""
        return replace(self, apply=tuple(child for child in self.apply if reference(child) != held))


def with_metadata(child: Object, **metadata: str) -> Object:
    """The same object with more in its metadata."""
    return {**child, "metadata": {**child["metadata"], **metadata}}


def reference(child: Object) -> Reference:
    return child["kind"], child["metadata"]["name"]


def make_plan(wanted: Sequence[Object], live: Sequence[Object], uid: str, pipeline: str) -> Plan:
    """`live`: every object of the pipeline's labels, and every one that has the name of a wanted one."""
    found = {reference(child): child for child in live}
    names = {reference(child) for child in wanted}
    conflicts = [ref for ref in map(reference, wanted) if ref in found and not is_ours(found[ref], uid, pipeline)]
    return Plan(
        apply=tuple(
            child
            for child in wanted
            if reference(child) not in conflicts and differs(child, found.get(reference(child)))
        ),
        adopted={ref: str(found[ref]["metadata"].get("uid", "")) for ref in names if ref in found},
        delete=tuple(child for ref, child in found.items() if ref not in names and is_deletable(child, uid)),
        conflicts=tuple(conflicts),
        handed_over={
            reference(child): found[reference(child)]
            for child in wanted
            if reference(child) in found and releases_replicas(child, found[reference(child)])
        },
    )


def is_deletable(child: Object, uid: str) -> bool:
    """Whether a child that is no longer wanted is the pipeline's to delete: not what is to outlive it."""
    return controller_uid(child) == uid and not child["metadata"].get("deletionTimestamp")


def releases_replicas(wanted: Object, live: Object) -> bool:
    """Whether a Deployment had its count from us, and is to have it from elsewhere."""
    if wanted["kind"] != "Deployment" or "replicas" in wanted["spec"] or "replicas" not in live["spec"]:
        return False
    ours = [entry for entry in live["metadata"].get("managedFields") or [] if entry.get("manager") == FIELD_MANAGER]
    return any("f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {}) for entry in ours)


def differs(wanted: Object, live: Object | None) -> bool:
    if live is None:
        return True
    annotations = live["metadata"].get("annotations") or {}
    if annotations.get(SPEC_HASH) != wanted["metadata"]["annotations"][SPEC_HASH]:
        return True
    return not contains(live, wanted)


def contains(live: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there. The server may add fields, drop empty ones, and rewrite quantities."""
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            return not wanted and live is None
        return all(contains(live.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return contains_items(live or [], wanted)
    if not wanted:
        return not live
    return bool(live == wanted) or same_quantity(live, wanted)


def contains_items(live: Any, wanted: list[Any]) -> bool:
    """Items that have an identity may stand among others; a list of plain values is wanted whole."""
    if not isinstance(live, list):
        return False
    if wanted and all(isinstance(item, Mapping) and any(identity(item)) for item in wanted):
        there = {identity(item): item for item in live if isinstance(item, Mapping)}
        return all(contains(there.get(identity(item)), item) for item in wanted)
    return len(live) == len(wanted) and all(map(contains, live, wanted))


def identity(item: Object) -> tuple[Any, ...]:
    """What tells an item of a list from its neighbours, as far as pods, Services and owner references have it."""
    return tuple(item.get(key) for key in ("uid", "name", "mountPath"))


def same_quantity(one: Any, other: Any) -> bool:
    """Whether two Kubernetes quantities are equal: 1000m is 1, 1024Mi is 1Gi."""
    if not isinstance(one, str | int | float) or not isinstance(other, str | int | float):
        return False
    amount = parse_quantity(str(one))
    return amount is not None and amount == parse_quantity(str(other))
