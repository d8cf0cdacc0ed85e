"""Applies the user's patch to a pod template: the part of `kubectl patch`'s strategic merge that pods need. Pure.

Mappings merge key by key, and null removes a key. The lists in MERGE_KEYS merge item by item; other lists are replaced.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from omni_operator.crd.problems import Problem
from omni_operator.crd.spec.worker_flags import extra_argument

CONTAINER = "omni"
"""Name of the worker's container in every pod."""

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "claims": "name",
    "ports": "containerPort",
}
ROOTS = ("metadata", "spec")


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A new mapping: `base` with `patch` applied. Neither is modified."""
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
    """The items of `base`, each patched by the item of `patch` with the same key `by`, then the new items."""
    patches = {item[by]: item for item in patch}
    existing = {item[by] for item in base}
    patched = [merged(item, patches[item[by]]) if item[by] in patches else item for item in base]
    return patched + [merged({}, item) for item in patch if item[by] not in existing]


def problems(template: Any, path: str) -> Iterator[Problem]:
    """Why a template cannot be merged. The API server judges whether the result is a valid pod."""
    for key in template:
        if key not in ROOTS:
            yield Problem(f"{path}.{key}", f"is not part of a pod template; expected one of: {', '.join(ROOTS)}")
        elif not isinstance(template[key], Mapping | None):
            yield Problem(f"{path}.{key}", f"{template[key]!r} is not a mapping; expected keys and values")
        else:
            yield from list_problems(template[key] or {}, f"{path}.{key}")
    yield from command_line_problems(template, path)


def command_line_problems(template: Any, path: str) -> Iterator[Problem]:
    """What is wrong with arguments for the worker, which are added to its command line as extraArgs are."""
    spec = template.get("spec")
    containers = spec.get("containers") if isinstance(spec, Mapping) else None
    for index, one in enumerate(containers if isinstance(containers, list) else ()):
        if not isinstance(one, Mapping) or one.get("name") != CONTAINER or not isinstance(one.get("args"), list):
            continue
        for position, argument in enumerate(one["args"]):
            try:
                extra_argument(str(argument))
            except ValueError as error:
                yield Problem(f"{path}.spec.containers[{index}].args[{position}]", f"{json.dumps(argument)}: {error}")


def list_problems(value: Any, path: str) -> Iterator[Problem]:
    """The problems of all lists below a value."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            if key in MERGE_KEYS and below is not None:
                yield from keyed_list_problems(below, f"{path}.{key}", MERGE_KEYS[key])
            else:
                yield from list_problems(below, f"{path}.{key}")


def keyed_list_problems(value: Any, path: str, by: str) -> Iterator[Problem]:
    """The problems of one list whose items are merged by their key `by`, and of the lists below it."""
    if not isinstance(value, list):
        yield Problem(path, f"{value!r} is not a list; expected items with a {by} each")
        return
    for index, item in enumerate(value):
        if not isinstance(item, Mapping) or not isinstance(item.get(by), str | int):
            yield Problem(f"{path}[{index}]", f"has no {by}; give it one, since items are merged by their {by}")
        else:
            yield from list_problems(item, f"{path}[{index}]")
