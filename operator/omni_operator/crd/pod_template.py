"""The user's patch over a pod template: a strategic merge, as `kubectl patch` does it, of the parts that matter here.

Mappings merge key by key, null removes a key, and the lists in MERGE_KEYS merge item by item; other lists are replaced.
Pure.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from omni_operator.crd.problems import Problem

CONTAINER = "omni"
"""Name of our container in every pod."""

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
}
ROOTS = ("metadata", "spec")


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `patch` over it; neither is changed."""
    result = dict(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            below = result.get(key)
            result[key] = merged(below if isinstance(below, Mapping) else {}, value)
        elif key in MERGE_KEYS and isinstance(value, list):
            result[key] = merged_list(result.get(key) or [], value, MERGE_KEYS[key])
        else:
            result[key] = value
    return result


def merged_list(base: list[Any], patch: list[Any], by: str) -> list[Any]:
    """Items of `base` in their order, each with the patch of the same `by` over it, then the new ones."""
    patches = {item[by]: item for item in patch}
    known = {item[by] for item in base}
    changed = [merged(item, patches[item[by]]) if item[by] in patches else item for item in base]
    return changed + [merged({}, item) for item in patch if item[by] not in known]


def problems(template: Any, path: str) -> Iterator[Problem]:
    """What keeps a template from being merged. Whether it makes a valid pod is for the API server to say."""
    for key in template:
        if key not in ROOTS:
            yield Problem(f"{path}.{key}", f"is not part of a pod template; expected one of: {', '.join(ROOTS)}")
        elif not isinstance(template[key], Mapping | None):
            yield Problem(f"{path}.{key}", f"{template[key]!r} is not a mapping; expected keys and values")
        else:
            yield from list_problems(template[key] or {}, f"{path}.{key}")


def list_problems(value: Any, path: str) -> Iterator[Problem]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            if key in MERGE_KEYS and below is not None:
                yield from keyed_list_problems(below, f"{path}.{key}", MERGE_KEYS[key])
            else:
                yield from list_problems(below, f"{path}.{key}")


def keyed_list_problems(value: Any, path: str, by: str) -> Iterator[Problem]:
    if not isinstance(value, list):
        yield Problem(path, f"{value!r} is not a list; expected items with a {by} each")
        return
    for index, item in enumerate(value):
        if not isinstance(item, Mapping) or not isinstance(item.get(by), str):
            yield Problem(f"{path}[{index}]", f"has no {by}; give it one, since items are merged by their {by}")
        else:
            yield from list_problems(item, f"{path}[{index}]")
