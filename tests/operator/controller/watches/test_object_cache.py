"""The cache of watched objects: it keeps the newest version of each, by pipeline, and reports every change."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from omni_operator.commands.operator import RECURSION_LIMIT
from omni_operator.controller.watches.object_cache import ObjectCache
from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from omni_operator.kube.connection import parse_object
from omni_operator.kube.errors import Unreachable
from omni_operator.planning.manifests.labels import PIPELINE

KEY = ("gallery", "digits")


def child(name: str = "digits", version: str = "1", owner: str = "digits", kind: str = "Service") -> dict[str, Any]:
    metadata = {"namespace": "gallery", "name": name, "resourceVersion": version, "labels": {PIPELINE: owner}}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}


@pytest.fixture
def changes() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def cache(changes: list[tuple[str, str]]) -> ObjectCache:
    return ObjectCache(changes.append)


def versions(cache: ObjectCache, key: tuple[str, str] = KEY) -> dict[str, str]:
    found = cache.objects_of(key, ("Service", "Pod"))
    return {one["metadata"]["name"]: one["metadata"]["resourceVersion"] for one in found}


def test_an_object_is_found_by_its_pipeline_and_kind(cache: ObjectCache) -> None:
    cache.put(child())
    cache.put(child("p", kind="Pod"))
    assert cache.objects_of(KEY, ("Service",)) == [child()]
    assert cache.objects_of(("gallery", "another"), ("Service",)) == []


# Versions in the order in which they arrive, and the one that must stay.
ORDERS = {
    "one after the other": (["9", "10"], "10"),
    "the answer to a write before an older version from the watch": (["10", "9"], "10"),
    "versions that are not numbers: the last one": (["b", "a"], "a"),
}


@pytest.mark.parametrize("row", ORDERS)
def test_the_newest_version_stays(cache: ObjectCache, row: str) -> None:
    arriving, expected = ORDERS[row]
    for version in arriving:
        cache.put(child(version=version))
    assert versions(cache) == {"digits": expected}


def test_our_own_write_is_not_reported(cache: ObjectCache, changes: list[tuple[str, str]]) -> None:
    cache.put_written(child(version="3"))
    cache.put(child(version="3"))
    assert changes == []
    cache.put(child(version="4"))
    assert changes == [KEY]
    cache.put_written(child(version="3"))
    assert versions(cache) == {"digits": "4"}


def deleted(version: str, kind: str = "Service") -> Callable[[ObjectCache], None]:
    return lambda cache: cache.remove(child(version=version, kind=kind))


def listed(version: str, scope: str | None) -> Callable[[ObjectCache], None]:
    return lambda cache: cache.keep_only("Service", scope, set(), version)


def reported_and_deleted(cache: ObjectCache) -> None:
    cache.put(child(version="5"))
    cache.remove(child(version="6"))


# What the watch has done when the answer to a write of version 5 arrives, and whether the object is kept.
WATCHED: dict[str, tuple[Callable[[ObjectCache], object], bool]] = {
    "nothing": (lambda cache: None, True),
    "it has reported an older object": (lambda cache: cache.put(child("a", "4")), True),
    "it has listed an older state": (listed("4", None), True),
    "it has reported the deletion": (deleted("6"), False),
    "it has reported the write, and the deletion": (reported_and_deleted, False),
    "it has listed a later state of all namespaces": (listed("7", None), False),
    "it has listed a later state of this one": (listed("7", "gallery"), False),
    "it has listed a later state of another": (listed("7", "other"), True),
    "the watch of another kind is later": (deleted("6", "Pod"), True),
}


@pytest.mark.parametrize("row", WATCHED)
def test_a_child_that_was_deleted_before_the_answer_to_our_write_arrives_is_reported(
    cache: ObjectCache, changes: list[tuple[str, str]], row: str
) -> None:
    watched, is_kept = WATCHED[row]
    watched(cache)
    changes.clear()
    cache.put_written(child(version="5"))
    assert ("digits" in versions(cache)) is is_kept
    assert changes == ([] if is_kept else [KEY])


def test_the_same_version_again_is_not_reported(cache: ObjectCache, changes: list[tuple[str, str]]) -> None:
    cache.put(child())
    cache.put(child())
    assert changes == [KEY]


def test_a_deleted_object_is_reported_to_its_pipeline(cache: ObjectCache, changes: list[tuple[str, str]]) -> None:
    cache.put(child())
    cache.remove(child(version="2"))
    assert versions(cache) == {}
    assert changes == [KEY, KEY]


def test_an_object_with_a_new_owner_is_reported_to_both(cache: ObjectCache, changes: list[tuple[str, str]]) -> None:
    cache.put(child())
    cache.put(child(version="2", owner="other"))
    assert versions(cache) == {}
    assert versions(cache, ("gallery", "other")) == {"digits": "2"}
    assert sorted(set(changes)) == [KEY, ("gallery", "other")]


def test_a_new_list_drops_the_objects_that_it_lacks(cache: ObjectCache, changes: list[tuple[str, str]]) -> None:
    for name in ("a", "b"):
        cache.put(child(name))
    cache.put(child("c", kind="Pod"))
    changes.clear()
    cache.keep_only("Service", "elsewhere", set())
    assert changes == []
    cache.keep_only("Service", "gallery", {("gallery", "b")})
    assert versions(cache) == {"b": "1", "c": "1"}
    cache.keep_only("Service", None, set())
    assert versions(cache) == {"c": "1"}
    assert changes == [KEY, KEY]


def test_an_object_without_a_pipeline_is_not_kept(cache: ObjectCache, changes: list[tuple[str, str]]) -> None:
    unowned = child()
    unowned["metadata"]["labels"] = {}
    cache.put(unowned)
    cache.remove(unowned)
    assert changes == []


@pytest.mark.parametrize(("managers", "kept"), [(["omni-operator", "kubectl"], ["omni-operator"]), (["kubectl"], [])])
@pytest.mark.parametrize("kind", ["Service", "PodMonitor"])
def test_only_our_own_managed_fields_are_kept(
    cache: ObjectCache, kind: str, managers: list[str], kept: list[str]
) -> None:
    managed = child(kind=kind)
    managed["metadata"]["managedFields"] = [{"manager": manager} for manager in managers]
    cache.put(managed)
    (found,) = cache.objects_of(KEY, (kind,))
    assert [entry["manager"] for entry in found["metadata"]["managedFields"]] == kept
    assert len(managed["metadata"]["managedFields"]) == len(managers), "the object that was put in is not modified"


def test_pods_are_kept_without_managed_fields(cache: ObjectCache) -> None:
    managed = child(kind="Pod")
    managed["metadata"]["managedFields"] = [{"manager": "omni-operator"}]
    cache.put(managed)
    (found,) = cache.objects_of(KEY, ("Pod",))
    assert "managedFields" not in found["metadata"]


def test_what_the_api_server_accepts_can_be_read(digits: dict[str, Any]) -> None:
    """Otherwise one pipeline would end the watch of all of them."""
    metadata = json.dumps(digits["metadata"])
    template = '{"spec":' * 9_990 + "{}" + "}" * 9_990
    text = f'{{"kind": "OmniPipeline", "metadata": {metadata}, "spec": {{"head": {{"template": {template}}}}}}}'
    usual = sys.getrecursionlimit()
    with pytest.raises(Unreachable):
        parse_object(text.encode(), "GET /x")
    sys.setrecursionlimit(RECURSION_LIMIT)
    try:
        manifest = parse_object(text.encode(), "GET /x")
        cache = ObjectCache()
        cache.put(manifest)
        (cached,) = cache.objects_of(("gallery", "digits"), ("OmniPipeline",))
        with pytest.raises(InvalidSpec):
            parse(cached)
    finally:
        sys.setrecursionlimit(usual)
