"""The cache of watched objects: it keeps the newest version of each, by pipeline, and reports every change."""

from typing import Any

import pytest

from omni_operator.controller.watches.object_cache import ObjectCache
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
    cache.put(child(version="3"), notify=False)
    cache.put(child(version="3"))
    assert changes == []
    cache.put(child(version="4"))
    assert changes == [KEY]


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


@pytest.mark.parametrize(("kind", "managers"), [("Service", None), ("Deployment", ["omni-operator"])])
def test_only_deployments_keep_managed_fields(cache: ObjectCache, kind: str, managers: list[str] | None) -> None:
    managed = child(kind=kind)
    managed["metadata"]["managedFields"] = [{"manager": "omni-operator"}, {"manager": "kubectl"}]
    cache.put(managed)
    (found,) = cache.objects_of(KEY, (kind,))
    entries = found["metadata"].get("managedFields")
    assert (entries and [entry["manager"] for entry in entries]) == managers
    assert len(managed["metadata"]["managedFields"]) == 2, "the object that was put in is not modified"
