"""`managedFields` as a server keeps them for what this operator applies, and loses them to others."""

import copy
import json
from collections.abc import Mapping
from typing import Any

from omni_operator.crd.objects import FIELD_MANAGER, Object
from tests.operator.edits import edited

# The keys by which a server merges the items of these lists; every other list is one value.
MERGED_BY = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "port", "protocol"),
    "ownerReferences": ("uid",),
}
OF_EVERY_OBJECT = ("name", "namespace", "uid", "resourceVersion", "managedFields")


def applied(child: Object) -> dict[str, Any]:
    """An object as the server returns it after this operator's apply."""
    fields = {f"f:{key}": fields_of(value, key) for key, value in child.items() if key not in ("apiVersion", "kind")}
    for key in OF_EVERY_OBJECT:
        fields["f:metadata"].pop(f"f:{key}", None)
    entry = {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": fields}
    live = copy.deepcopy(dict(child))
    live["metadata"]["managedFields"] = [entry]
    return live


def fields_of(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {".": {}, **{f"f:{key}": fields_of(inner, key) for key, inner in value.items()}} if value else {}
    if isinstance(value, list) and name in MERGED_BY:
        return {key_of(item, MERGED_BY[name]): fields_of(item) for item in value}
    return {}


def key_of(item: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    found = {key: item[key] for key in keys if key in item}
    if "port" in "".join(found).lower():
        found.setdefault("protocol", "TCP")
    return "k:" + json.dumps(found, separators=(",", ":"))


def changed_by_others(live: Object, path: str, value: Any) -> dict[str, Any]:
    """A live object after another client has changed a field, which that client manages from then on."""
    result = edited(live, {path: value})
    node, here = result["metadata"]["managedFields"][0]["fieldsV1"], live
    *above, last = path.split(".")
    for step in above:
        key = key_at(node, here, step)
        here = here[int(step)] if isinstance(here, list) else here.get(step)
        if not node.get(key):  # not ours, or one value
            break
        node = node[key]
    else:
        key = key_at(node, here, last)
    node.pop(key, None)
    if set(node) == {"."}:
        node.clear()  # as a server writes it
    return result


def key_at(node: Mapping[str, Any], here: Any, step: str) -> str | None:
    """The key of a field, or of an item by its number, in a node."""
    if not isinstance(here, list):
        return f"f:{step}"
    return next((key for key in node if key.startswith("k:") and is_item(key, here, int(step))), None)


def is_item(key: str, items: list[Any], index: int) -> bool:
    wanted = json.loads(key[2:])
    return index < len(items) and all(items[index].get(name, value) == value for name, value in wanted.items())
