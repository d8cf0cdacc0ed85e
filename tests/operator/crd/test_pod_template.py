"""The user's patch of a pod template."""

from typing import Any

import pytest

from omni_operator.crd.pod_template import merged, problems

BASE = {
    "metadata": {"labels": {"app": "omni"}},
    "spec": {
        "containers": [{"name": "omni", "image": "worker", "env": [{"name": "HOME", "value": "/tmp"}]}],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "priority": 1,
    },
}

MERGES: dict[str, tuple[dict[str, Any], str, Any]] = {
    "an empty patch changes nothing": ({}, "spec", BASE["spec"]),
    "a mapping merges key by key": (
        {"metadata": {"labels": {"team": "a"}}},
        "metadata.labels",
        {"app": "omni", "team": "a"},
    ),
    "null takes a key away": ({"spec": {"priority": None}}, "spec.priority", None),
    "a variable of a known name is replaced": (
        {"spec": {"containers": [{"name": "omni", "env": [{"name": "HOME", "value": "/home"}]}]}},
        "spec.containers.0.env",
        [{"name": "HOME", "value": "/home"}],
    ),
    "a variable of a new name is added after ours": (
        {"spec": {"containers": [{"name": "omni", "env": [{"name": "A", "value": "1"}]}]}},
        "spec.containers.0.env",
        [{"name": "HOME", "value": "/tmp"}, {"name": "A", "value": "1"}],
    ),
    "the rest of a patched container stays": (
        {"spec": {"containers": [{"name": "omni", "workingDir": "/"}]}},
        "spec.containers.0.image",
        "worker",
    ),
    "a container of a new name is added": (
        {"spec": {"containers": [{"name": "proxy", "image": "envoy"}]}},
        "spec.containers.1",
        {"name": "proxy", "image": "envoy"},
    ),
    "a volume of a known name is changed": (
        {"spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]}},
        "spec.volumes.0.emptyDir",
        {"sizeLimit": "1Gi"},
    ),
    "tolerations are given where there were none": (
        {"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}},
        "spec.tolerations.0.key",
        "gpu",
    ),
    "a list without names is replaced": (
        {"spec": {"tolerations": [{"operator": "Exists"}]}},
        "spec.tolerations",
        [{"operator": "Exists"}],
    ),
    "a volume of a new name is added": (
        {"spec": {"volumes": [{"name": "cache", "emptyDir": {}}]}},
        "spec.volumes.1.name",
        "cache",
    ),
}


def at(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree.get(part)
    return tree


@pytest.mark.parametrize("row", MERGES)
def test_merging(row: str) -> None:
    patch, path, expected = MERGES[row]
    before = repr(BASE)
    assert at(merged(BASE, patch), path) == expected
    assert repr(BASE) == before, "merging must not change its input"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "env at the top": ({"env": []}, "t.env: is not part of a pod template"),
    "a spec that is a list": ({"spec": []}, "t.spec: [] is not a mapping"),
    "containers that are a mapping": ({"spec": {"containers": {}}}, "t.spec.containers: {} is not a list"),
    "a variable without a name": (
        {"spec": {"containers": [{"name": "omni", "env": [{"value": "1"}]}]}},
        "t.spec.containers[0].env[0]: has no name",
    ),
    "a mount without a path": (
        {"spec": {"containers": [{"name": "omni", "volumeMounts": [{"name": "a"}]}]}},
        "t.spec.containers[0].volumeMounts[0]: has no mountPath",
    ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_a_patch_that_cannot_be_merged_says_where(row: str) -> None:
    template, expected = REFUSED[row]
    assert any(expected in str(problem) for problem in problems(template, "t"))
