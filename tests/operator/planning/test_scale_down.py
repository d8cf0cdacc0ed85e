"""The pods that go first when a stage is scaled down, with as few writes as possible."""

from typing import Any

import pytest

from omni_operator.planning.scale_down import (
    DELETION_COST,
    FIRST_TO_GO,
    deletion_cost_changes,
    is_deletion_cost_supported,
)


def pod(name: str, cost: str | None = None, ready: bool = True, born: int = 0, ending: bool = False) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "creationTimestamp": f"2026-01-01T00:00:{born:02d}Z"}
    if cost:
        metadata["annotations"] = {DELETION_COST: cost}
    if ending:
        metadata["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    return {"metadata": metadata, "status": {"conditions": [{"type": "Ready", "status": str(ready)}]}}


THREE = [pod("a"), pod("b"), pod("c")]
LOADS = {"a": 3, "b": 0, "c": 1}
# name: (pods, their loads, how many stay, the annotations to write)
ROWS: dict[str, tuple[list[dict[str, Any]], dict[str, int], int, dict[str, str | None]]] = {
    "the least loaded one goes": (THREE, LOADS, 2, {"b": FIRST_TO_GO}),
    "the two least loaded go": (THREE, LOADS, 1, {"b": FIRST_TO_GO, "c": FIRST_TO_GO}),
    "all stay": (THREE, LOADS, 3, {}),
    "more are wanted": (THREE, LOADS, 5, {}),
    "one that the head does not know has nothing to do": (THREE, {"a": 1, "c": 1}, 2, {"b": FIRST_TO_GO}),
    "of equals the youngest goes": ([pod("a", born=1), pod("b", born=3), pod("c", born=2)], {}, 2, {"b": FIRST_TO_GO}),
    "one that is not ready goes before all others": ([*THREE[:2], pod("c", ready=False)], LOADS, 2, {}),
    "one that is not ready, and a second": ([*THREE[:2], pod("c", ready=False)], LOADS, 1, {"b": FIRST_TO_GO}),
    "one that ends already does not count": ([*THREE, pod("d", ending=True)], LOADS, 2, {"b": FIRST_TO_GO}),
    "what is marked already is not written again": ([pod("a"), pod("b", FIRST_TO_GO), pod("c")], LOADS, 2, {}),
    "a mark that is left over is taken away": (
        [pod("a", FIRST_TO_GO), pod("b"), pod("c")],
        LOADS,
        2,
        {"a": None, "b": FIRST_TO_GO},
    ),
    "costs of someone else are theirs to say": ([pod("a", "100"), pod("b"), pod("c")], LOADS, 2, {}),
}


@pytest.mark.parametrize("row", ROWS)
def test_marks(row: str) -> None:
    pods, loads, kept, written = ROWS[row]
    assert deletion_cost_changes(pods, loads, kept) == written


@pytest.mark.parametrize(
    ("major", "minor", "expected"),
    [("1", "20", False), ("1", "21", False), ("1", "22", True), ("1", "30+", True), ("2", "0", True), ("", "", False)],
)
def test_clusters_that_look_at_the_mark(major: str, minor: str, expected: bool) -> None:
    assert is_deletion_cost_supported({"major": major, "minor": minor}) is expected
