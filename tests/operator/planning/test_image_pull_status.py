"""The condition that tells whether nodes have the images of a pipeline."""

from dataclasses import replace
from typing import Any

import pytest

from tests.operator.edits import edited
from tests.operator.planning.observations import UP, conditions, observed, pod, status_of, waiting


def pull(stage: str, nodes: int, ready: int, updated: int | None = None, generation: int = 2) -> dict[str, Any]:
    """A DaemonSet with its status."""
    counts = {"desiredNumberScheduled": nodes, "numberReady": ready, "observedGeneration": 2}
    counts |= {"updatedNumberScheduled": nodes if updated is None else updated}
    labels = {"omnipipeline.dev/stage": stage}
    return {"metadata": {"name": stage, "generation": generation, "labels": labels}, "status": counts}


NEW = {"metadata": {"name": "painter", "generation": 1, "labels": {"omnipipeline.dev/stage": "painter"}}}
# name: (DaemonSets, the statuses of their pods, whether the nodes are warm, the reason, the message)
ROWS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], bool, str, str]] = {
    "all nodes have them": ([pull("painter", 3, 3)], [], True, "Pulled", "nodes with the images: painter 3 of 3"),
    "two stages": (
        [pull("thinker", 1, 1), pull("painter", 3, 2)],
        [],
        False,
        "Pulling",
        "nodes with the images: painter 2 of 3, thinker 1 of 1",
    ),
    "nothing is known yet": ([NEW], [], False, "Pulling", "the nodes begin to pull the images"),
    "none is made yet": ([], [], False, "Pulling", "the nodes begin to pull the images"),
    "the counts are of the images before": (
        [pull("painter", 3, 3, generation=3)],
        [],
        False,
        "Pulling",
        "begin to pull",
    ),
    "some nodes have the images before": ([pull("painter", 3, 3, updated=1)], [], False, "Pulling", "painter 3 of 3"),
    "no node suits": (
        [pull("painter", 0, 0)],
        [],
        False,
        "NoNodes",
        "painter 0 of 0; no node suits the pods of a stage",
    ),
    "an image that nobody has": (
        [pull("painter", 2, 1)],
        [waiting("ErrImagePull")],
        False,
        "ImagePullBackOff",
        "painter 1 of 2; container omni of pod digits-painter-images-x: the image worker:1 cannot be pulled",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_status_tells_how_many_nodes_have_the_images(digits: dict[str, Any], row: str) -> None:
    image_pulls, statuses, is_warm, reason, message = ROWS[row]
    pods = [pod("digits-painter-images-x", "image-pull", **status) for status in statuses]
    seen = replace(observed(UP, UP, pods), image_pulls=image_pulls)
    found = conditions(status_of(edited(digits, {"spec.image.prefetch": True, "spec.replicas": 1}), seen))
    condition = found["NodesWarm"]
    assert (condition["status"] == "True", condition["reason"]) == (is_warm, reason)
    assert message in condition["message"]
    assert (found["Ready"]["status"], found["Degraded"]["status"]) == ("True", "False"), "it serves either way"


@pytest.mark.parametrize(
    ("edits", "reason"), [({}, "NotRequested"), ({"spec.image.prefetch": True, "spec.suspend": True}, "AtRest")]
)
def test_nothing_is_pulled_unless_it_is_asked_for(digits: dict[str, Any], edits: dict[str, Any], reason: str) -> None:
    condition = conditions(status_of(edited(digits, edits), observed(UP, UP, [])))["NodesWarm"]
    assert (condition["status"], condition["reason"]) == ("False", reason)
