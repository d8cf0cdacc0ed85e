"""Whether somebody has changed what we applied to an object. Pure.

The server need not store a field as we applied it: admission webhooks and policies rewrite images and requests, and the
server replaces zeros by defaults. That is no drift, and applying again would give the same. `managedFields` tell the
two apart: a field that another client changes is no longer ours, and one that the server changed during our own apply
still is.
"""

import json
from collections.abc import Mapping
from typing import Any

from omni_operator.crd.objects import FIELD_MANAGER, Object
from omni_operator.crd.quantities import parse_quantity

Fields = Mapping[str, Any] | None
"""A node of `fieldsV1`: the fields below it that are ours. Empty: the value itself. None: nothing of it.

An empty node of a mapping or of a list whose items have keys may also mean that others have taken all that is below.
"""


def has_drifted(live: Object, desired: Object) -> bool:
    """Whether a live object lacks a part of the desired content that it had when we applied this content."""
    if "managedFields" not in live["metadata"]:
        return False  # nothing tells a change by others from one by the server
    return not contains(live, desired, owned_fields(live))


def owned_fields(live: Object) -> Fields:
    """The fields of an object that we have applied, and that nobody has changed since."""
    merged: dict[str, Any] | None = None
    for entry in live["metadata"].get("managedFields") or []:
        if entry.get("manager") == FIELD_MANAGER:
            merged = merge(merged or {}, entry.get("fieldsV1") or {})
    return merged


def merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of either node."""
    return {**one, **{key: merge(one.get(key, {}), value) for key, value in other.items()}}


def contains(live: Any, desired: Any, owned: Fields = None) -> bool:
    """Whether a live value has all of a desired one, but for what the server changed in the `owned` part.

    The server may add fields, drop empty ones, and rewrite quantities everywhere.
    """
    if owned is not None and (live is None or (not owned and is_one_value(desired))):
        return True
    if isinstance(desired, Mapping):
        if not isinstance(live, Mapping):
            return not desired and live is None
        return all(contains(live.get(key), value, below(owned, f"f:{key}")) for key, value in desired.items())
    if isinstance(desired, list):
        return contains_items(live or [], desired, owned)
    if not desired:
        return not live
    return bool(live == desired) or same_quantity(live, desired)


def is_one_value(desired: Any) -> bool:
    """Whether a value is managed as a whole: a scalar, or a list of items without keys."""
    return not isinstance(desired, Mapping) and not (isinstance(desired, list) and has_keys(desired))


def has_keys(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, Mapping) and any(identity(item)) for item in items)


def contains_items(live: Any, desired: list[Any], owned: Fields) -> bool:
    """Items with an identity may be among others. A list of plain values must be equal."""
    if not isinstance(live, list):
        return False
    if has_keys(desired):
        live_items = {identity(item): item for item in live if isinstance(item, Mapping)}
        return all(contains(live_items.get(identity(item)), item, below_item(owned, item)) for item in desired)
    return len(live) == len(desired) and all(
        contains(*pair, below_item(owned, pair[1])) for pair in zip(live, desired, strict=True)
    )


def below(owned: Fields, key: str) -> Fields:
    return None if owned is None else owned.get(key)


def below_item(owned: Fields, item: Any) -> Fields:
    """The node of an item in a list, which names the item by its keys (`k:{...}`) or its value (`v:...`)."""
    for name, node in (owned or {}).items():
        kind, _, text = name.partition(":")
        if kind == "v" and json.loads(text) == item:
            return dict(node)
        if kind == "k" and isinstance(item, Mapping):
            keys = json.loads(text)
            if all(item.get(key, value) == value for key, value in keys.items()):  # a key may be left to its default
                return dict(node)
    return None


def identity(item: Mapping[str, Any]) -> tuple[Any, ...]:
    """What identifies an item in a list of a pod, a Service, or owner references."""
    return tuple(item.get(key) for key in ("uid", "name", "mountPath"))


def same_quantity(one: Any, other: Any) -> bool:
    """Whether two Kubernetes quantities are equal: `1000m` equals `1`, and `1024Mi` equals `1Gi`."""
    if not isinstance(one, str | int | float) or not isinstance(other, str | int | float):
        return False
    amount = parse_quantity(str(one))
    return amount is not None and amount == parse_quantity(str(other))
