"""Ready, HeadReady and Progressing, for every state in which a pipeline can be observed."""

from typing import Any

import pytest

from tests.operator.edits import edited
from tests.operator.planning.observations import (
    CRASH,
    DOWN,
    NO_GPU,
    NOW,
    OUT_OF_MEMORY,
    SCHEDULER,
    SERVING,
    STARTED,
    UP,
    conditions,
    deployment,
    observed,
    of_two,
    pod,
    status_of,
    thinker_pod,
    waiting,
)

# name: (head, painters (2 wanted), pods, Ready, reason, part of the message, HeadReady's reason, Progressing's reason)
ROWS: dict[str, tuple[Any, Any, list[Any], bool, str, str, str, str]] = {
    "nothing exists yet": (None, None, [], False, "Starting", "0/2", "Starting", "Starting"),
    "all serve": (UP, deployment(2, 2), [], True, "Serving", "painter 2/2 ready", "Serving", "Complete"),
    "the head waits for the first replica": (
        DOWN,
        deployment(0, 2),
        [pod("digits-head-x", "head", **STARTED)],
        False,
        "Starting",
        "painter 0/2 ready; the head is not ready yet",
        "WaitingForReplicas",
        "Starting",
    ),
    "one of two is there": (UP, deployment(1, 2), [], False, "Starting", "painter 1/2", "Serving", "Scaling"),
    "the scheduler finds no GPU": (
        UP,
        deployment(1, 2),
        [pod(**NO_GPU), pod("digits-painter-a", **SERVING)],
        False,
        "Unschedulable",
        f"painter 1/2 ready; stage painter: pod digits-painter-x fits on no node: {SCHEDULER}",
        "Serving",
        "Scaling",
    ),
    "the image cannot be pulled": (
        UP,
        deployment(0, 2),
        [pod(**waiting("ErrImagePull"))],
        False,
        "ImagePullBackOff",
        "the image worker:1 cannot be pulled; check its name and access",
        "Serving",
        "ImagePullBackOff",
    ),
    "a replica crashes again and again": (
        UP,
        deployment(0, 2),
        [pod(**waiting("CrashLoopBackOff", "back-off 20s", CRASH))],
        False,
        "CrashLoopBackOff",
        "keeps ending: exit code 2: omni serve: MODEL: no such folder",
        "Serving",
        "CrashLoopBackOff",
    ),
    "a replica runs out of memory": (
        UP,
        deployment(0, 2),
        [pod(**waiting("CrashLoopBackOff", "", OUT_OF_MEMORY))],
        False,
        "CrashLoopBackOff",
        "keeps ending: OOMKilled, exit code 137",
        "Serving",
        "CrashLoopBackOff",
    ),
    "a Secret is missing": (
        UP,
        deployment(0, 2),
        [pod(**waiting("CreateContainerConfigError", 'secret "hub" not found'))],
        False,
        "CreateContainerConfigError",
        'secret "hub" not found',
        "Serving",
        "CreateContainerConfigError",
    ),
    "the head itself crashes": (
        DOWN,
        deployment(0, 2),
        [pod("digits-head-x", "head", **waiting("CrashLoopBackOff", "", CRASH))],
        False,
        "CrashLoopBackOff",
        "the head: container omni of pod digits-head-x keeps ending",
        "CrashLoopBackOff",
        "CrashLoopBackOff",
    ),
    "a container that is being made is no trouble": (
        UP,
        deployment(0, 2),
        [pod(**waiting("ContainerCreating"))],
        False,
        "Starting",
        "painter 0/2 ready",
        "Serving",
        "Scaling",
    ),
    "the quota refuses pods": (
        UP,
        deployment(0, 0, ReplicaFailure="FailedCreate"),
        [],
        False,
        "PodsRefused",
        "the cluster refuses its pods: m",
        "Serving",
        "PodsRefused",
    ),
    "a rollout is under way": (
        UP,
        deployment(1, 2, updated=1),
        [],
        False,
        "RollingOut",
        "pods of the previous spec are being replaced",
        "Serving",
        "RollingOut",
    ),
    "old pods serve and counts are of the spec before": (
        UP,
        deployment(2, 2, current=False),
        [],
        False,
        "Starting",
        "painter 2/2 ready",
        "Serving",
        "Scaling",
    ),
    "a rollout takes too long": (
        UP,
        deployment(1, 2, updated=1, Progressing="ProgressDeadlineExceeded"),
        [],
        False,
        "DeadlineExceeded",
        "did not become ready in time",
        "Serving",
        "DeadlineExceeded",
    ),
    "a new image that cannot be pulled leaves the old pod serving": (
        UP,
        deployment(1, 2, updated=1),
        [pod("digits-painter-a", **SERVING), pod(**waiting("ImagePullBackOff"))],
        False,
        "ImagePullBackOff",
        "painter 1/2 ready; stage painter: container omni of pod digits-painter-x: the image worker:1 cannot be pulled",
        "Serving",
        "ImagePullBackOff",
    ),
    "a rollout that waits for a GPU is late": (
        UP,
        deployment(1, 2, updated=1, Progressing="ProgressDeadlineExceeded"),
        [pod("digits-painter-a", **SERVING), pod(**NO_GPU)],
        False,
        "Unschedulable",
        SCHEDULER,
        "Serving",
        "DeadlineExceeded",
    ),
    "a pod that ends is no trouble": (
        UP,
        deployment(2, 2),
        [{**pod(**NO_GPU), "metadata": {"name": "old", "deletionTimestamp": NOW, "labels": {}}}],
        True,
        "Serving",
        "painter 2/2 ready",
        "Serving",
        "Complete",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_conditions_say_what_is(digits: dict[str, Any], row: str) -> None:
    head, painters, pods, is_ready, reason, message, head_reason, progress = ROWS[row]
    found = conditions(status_of(digits, observed(head, painters, pods)))
    assert found["Accepted"]["status"] == "True"
    assert (found["Ready"]["status"] == "True", found["Ready"]["reason"]) == (is_ready, reason)
    assert message in found["Ready"]["message"]
    assert found["HeadReady"]["reason"] == head_reason
    assert found["Progressing"]["reason"] == progress
    assert found["Progressing"]["status"] == str(progress in ("Starting", "Scaling", "RollingOut"))


# The same of a thinker and two painters: (head, thinkers, painters, pods, Ready, reason, message, HeadReady's message)
ROWS_OF_TWO: dict[str, tuple[Any, Any, Any, list[Any], bool, str, str, str]] = {
    "both serve": (
        UP,
        UP,
        deployment(2, 2),
        [],
        True,
        "Serving",
        "thinker 1/1 ready, painter 2/2 ready",
        "the head serves requests",
    ),
    "the thinker is missing": (
        DOWN,
        DOWN,
        deployment(2, 2),
        [pod("two-head-x", "head", **STARTED)],
        False,
        "Starting",
        "thinker 0/1 ready, painter 2/2 ready; the head is not ready yet",
        "the head has started, and waits for a replica of thinker",
    ),
    "both are missing": (
        DOWN,
        DOWN,
        deployment(0, 2),
        [pod("two-head-x", "head", **STARTED)],
        False,
        "Starting",
        "thinker 0/1 ready, painter 0/2 ready; the head is not ready yet",
        "the head has started, and waits for a replica of thinker and painter",
    ),
    "a thinker that crashes is told before a painter that waits": (
        DOWN,
        DOWN,
        deployment(0, 2),
        [thinker_pod(**waiting("CrashLoopBackOff", "", OUT_OF_MEMORY))],
        False,
        "CrashLoopBackOff",
        "stage thinker: container omni of pod two-thinker-x keeps ending: OOMKilled, exit code 137",
        "the head is starting",
    ),
    "a painter that fits nowhere is told before a thinker that crashes": (
        DOWN,
        DOWN,
        deployment(0, 2),
        [thinker_pod(**waiting("CrashLoopBackOff", "", CRASH)), pod("two-painter-x", **NO_GPU)],
        False,
        "Unschedulable",
        "stage painter: pod two-painter-x fits on no node",
        "the head is starting",
    ),
    "one stage is rolled while the other serves": (
        UP,
        deployment(1, 1, updated=0),
        deployment(2, 2),
        [],
        False,
        "RollingOut",
        "thinker 1/1 ready, painter 2/2 ready; pods of the previous spec are being replaced",
        "the head serves requests",
    ),
}


@pytest.mark.parametrize("row", ROWS_OF_TWO)
def test_a_pipeline_is_ready_when_every_stage_is(two: dict[str, Any], row: str) -> None:
    head, thinkers, painters, pods, is_ready, reason, message, head_message = ROWS_OF_TWO[row]
    manifest = edited(two, {"spec.stages.1.replicas": 2})
    status = status_of(manifest, of_two(head, thinkers, painters, pods))
    found = conditions(status)
    assert (found["Ready"]["status"] == "True", found["Ready"]["reason"]) == (is_ready, reason)
    assert message in found["Ready"]["message"]
    assert found["HeadReady"]["message"] == head_message
    assert [stage["name"] for stage in status["stages"]] == ["thinker", "painter"]
    assert status["pods"] == 3
