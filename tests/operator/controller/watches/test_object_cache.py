"""What is kept of the children: the newest of each, by pipeline, and who is told of a change."""

from typing import Any

import pytest

from omni_operator.controller.watches.object_cache import Store
from omni_operator.planning.manifests.labels import PIPELINE

KEY = ("gallery", "digits")


def child(name: str = "digits", version: str = "1", owner: str = "digits", kind: str = "Service") -> dict[str, Any]:
    metadata = {"namespace": "gallery", "name": name, "resourceVersion": version, "labels": {PIPELINE: owner}}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def store(told: list[tuple[str, str]]) -> Store:
    return Store(told.append)


def versions(store: Store, key: tuple[str, str] = KEY) -> dict[str, str]:
    found = store.of(key, ("Service", "Pod"))
    return {one["metadata"]["name"]: one["metadata"]["resourceVersion"] for one in found}


def test_an_object_is_found_by_its_pipeline_and_kind(store: Store) -> None:
    store.put(child())
    store.put(child("p", kind="Pod"))
    assert store.of(KEY, ("Service",)) == [child()]
    assert store.of(("gallery", "another"), ("Service",)) == []


# Versions as they come, and the one that is to be kept.
ORDERS = {
    "one after the other": (["9", "10"], "10"),
    "an answer to a write before the watch tells of an older version": (["10", "9"], "10"),
    "versions that are no numbers: the last one": (["b", "a"], "a"),
}


@pytest.mark.parametrize("row", ORDERS)
def test_the_newest_version_counts(store: Store, row: str) -> None:
    coming, kept = ORDERS[row]
    for version in coming:
        store.put(child(version=version))
    assert versions(store) == {"digits": kept}


def test_what_was_written_here_is_kept_without_a_word(store: Store, told: list[tuple[str, str]]) -> None:
    store.put(child(version="3"), is_told=False)
    store.put(child(version="3"))
    assert told == []
    store.put(child(version="4"))
    assert told == [KEY]


def test_the_same_version_again_is_no_news(store: Store, told: list[tuple[str, str]]) -> None:
    store.put(child())
    store.put(child())
    assert told == [KEY]


def test_what_goes_is_told_to_the_pipeline_that_had_it(store: Store, told: list[tuple[str, str]]) -> None:
    store.put(child())
    store.remove(child(version="2"))
    assert versions(store) == {}
    assert told == [KEY, KEY]


def test_an_object_that_changes_hands_is_told_to_both(store: Store, told: list[tuple[str, str]]) -> None:
    store.put(child())
    store.put(child(version="2", owner="other"))
    assert versions(store) == {}
    assert versions(store, ("gallery", "other")) == {"digits": "2"}
    assert sorted(set(told)) == [KEY, ("gallery", "other")]


def test_a_watch_that_begins_anew_forgets_what_is_not_there_any_more(store: Store, told: list[tuple[str, str]]) -> None:
    for name in ("a", "b"):
        store.put(child(name))
    store.put(child("c", kind="Pod"))
    told.clear()
    store.keep_only("Service", "elsewhere", set())
    assert told == []
    store.keep_only("Service", "gallery", {("gallery", "b")})
    assert versions(store) == {"b": "1", "c": "1"}
    store.keep_only("Service", None, set())
    assert versions(store) == {"c": "1"}
    assert told == [KEY, KEY]


def test_an_object_of_nobody_is_not_kept(store: Store, told: list[tuple[str, str]]) -> None:
    nobody = child()
    nobody["metadata"]["labels"] = {}
    store.put(nobody)
    store.remove(nobody)
    assert told == []


@pytest.mark.parametrize(("kind", "kept"), [("Service", None), ("Deployment", ["omni-operator"])])
def test_who_manages_what_is_kept_only_of_what_asks_for_it(store: Store, kind: str, kept: list[str] | None) -> None:
    managed = child(kind=kind)
    managed["metadata"]["managedFields"] = [{"manager": "omni-operator"}, {"manager": "kubectl"}]
    store.put(managed)
    (found,) = store.of(KEY, (kind,))
    entries = found["metadata"].get("managedFields")
    assert (entries and [entry["manager"] for entry in entries]) == kept
    assert len(managed["metadata"]["managedFields"]) == 2, "what was put in is not changed"
