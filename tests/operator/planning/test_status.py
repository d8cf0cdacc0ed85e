"""What the status says: the truth, in words a person can act on, and nothing new where nothing is new.

Long, because it is tables: a row for each state that a pipeline can be seen in.
"""

from dataclasses import replace
from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from omni_operator.planning.observed import Failure, Observed
from omni_operator.planning.status import accepted_status, rejected_status
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.edits import edited

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"


def deployment(
    ready: int, replicas: int, updated: int | None = None, current: bool = True, **conditions: str
) -> dict[str, Any]:
    return {
        "metadata": {"generation": 4},
        "status": {
            "observedGeneration": 4 if current else 3,
            "replicas": replicas,
            "readyReplicas": ready,
            "updatedReplicas": replicas if updated is None else updated,
            "conditions": [
                {
                    "type": kind,
                    "status": "True" if kind == "ReplicaFailure" else "False",
                    "reason": reason,
                    "message": "m",
                }
                for kind, reason in conditions.items()
            ],
        },
    }


def pod(name: str = "digits-painter-x", role: str = "replica", **status: Any) -> dict[str, Any]:
    labels = {"omnipipeline.dev/role": role, "omnipipeline.dev/stage": "painter"}
    return {"metadata": {"name": name, "labels": labels}, "status": status}


def waiting(reason: str, message: str = "", last: dict[str, Any] | None = None) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    container = {"name": "omni", "image": "worker:1", "state": state, "lastState": {"terminated": last} if last else {}}
    return {"phase": "Pending", "containerStatuses": [container]}


STARTED = {"containerStatuses": [{"name": "omni", "started": True, "state": {"running": {}}}]}
SERVING = {"conditions": [{"type": "Ready", "status": "True"}]}
CRASH = {"exitCode": 2, "reason": "Error", "message": "loading\nomni serve: MODEL: no such folder\n"}
OUT_OF_MEMORY = {"exitCode": 137, "reason": "OOMKilled"}
SCHEDULER = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
NO_GPU = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": SCHEDULER}]}
UP, DOWN = deployment(1, 1), deployment(0, 1)

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


def status_of(manifest: dict[str, Any], observed: Observed, previous: Any = None, now: str = NOW) -> dict[str, Any]:
    pipeline = parse(manifest)
    status = accepted_status(pipeline, cluster_topology(pipeline), observed, previous or {}, now)
    return status.model_dump(by_alias=True, mode="json", exclude_none=True)


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in status["conditions"]}


def observed(head: Any, painters: Any, pods: list[Any], failures: tuple[Failure, ...] = ()) -> Observed:
    found = {"digits-head": head, "digits-painter": painters}
    return Observed({name: one for name, one in found.items() if one}, pods, failures)


def of_two(head: Any, thinkers: Any, painters: Any, pods: list[Any]) -> Observed:
    found = {"two-head": head, "two-thinker": thinkers, "two-painter": painters}
    return Observed({name: one for name, one in found.items() if one}, pods)


def thinker_pod(**status: Any) -> dict[str, Any]:
    labels = {"omnipipeline.dev/role": "replica", "omnipipeline.dev/stage": "thinker"}
    return {"metadata": {"name": "two-thinker-x", "labels": labels}, "status": status}


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
    assert status["replicas"] == 3


def test_a_stage_without_replicas_is_named(two: dict[str, Any]) -> None:
    manifest = edited(two, {"spec.stages.0.replicas": 0})
    found = conditions(status_of(manifest, of_two(DOWN, deployment(0, 0), UP, [])))
    assert found["Ready"]["reason"] == "ScaledToZero"
    assert found["Ready"]["message"] == "no replica is asked for of stage thinker; give it replicas: 1 or more to serve"


def test_stages_are_counted(digits: dict[str, Any]) -> None:
    status = status_of(digits, observed(UP, deployment(1, 2), [pod(**NO_GPU)]))
    (stage,) = status["stages"]
    assert {key: stage[key] for key in ("name", "desired", "replicas", "ready", "updated")} == {
        "name": "painter",
        "desired": 2,
        "replicas": 2,
        "ready": 1,
        "updated": 2,
    }
    assert stage["reason"] == "Unschedulable"
    assert (status["replicas"], status["readyReplicas"], status["observedGeneration"]) == (2, 1, 1)
    assert status["selector"] == "omnipipeline.dev/pipeline=digits,omnipipeline.dev/role=replica"


def test_no_replica_at_all_is_said_so(digits: dict[str, Any]) -> None:
    status = status_of(edited(digits, {"spec.replicas": 0}), observed(DOWN, deployment(0, 0), []))
    assert conditions(status)["Ready"]["reason"] == "ScaledToZero"


def test_a_child_that_cannot_be_made_is_the_reason(digits: dict[str, Any]) -> None:
    failure = Failure("NameConflict", "Service digits exists and is not ours; rename it, or the pipeline")
    found = conditions(status_of(digits, observed(UP, deployment(2, 2), [], (failure,))))
    assert (found["Ready"]["status"], found["Ready"]["reason"]) == ("False", "NameConflict")
    assert found["Ready"]["message"] == failure.message


def test_a_minor_child_that_cannot_be_made_is_told_and_keeps_nothing_from_being_ready(digits: dict[str, Any]) -> None:
    failure = Failure("Forbidden", "PodMonitor digits cannot be made: not allowed", is_minor=True)
    found = conditions(status_of(digits, observed(UP, deployment(2, 2), [], (failure,))))
    assert (found["Ready"]["status"], found["Progressing"]["reason"]) == ("True", "Complete")
    assert found["Degraded"]["status"] == "True"
    assert (found["Degraded"]["reason"], found["Degraded"]["message"]) == (failure.reason, failure.message)


# name: (head, painters (2 wanted), pods, kinds left out, Degraded, reason, part of the message)
DEGRADED: dict[str, tuple[Any, Any, list[Any], tuple[str, ...], bool, str, str]] = {
    "all serve": (UP, deployment(2, 2), [], (), False, "AsWanted", "nothing"),
    "a kind is missing in this cluster": (
        UP,
        deployment(2, 2),
        [],
        ("PodDisruptionBudget",),
        True,
        "KindMissing",
        "left out, since this cluster does not have that kind: PodDisruptionBudget",
    ),
    "one of two serves, and the other fits nowhere": (
        UP,
        deployment(1, 2),
        [pod(**NO_GPU)],
        (),
        True,
        "Unschedulable",
        "it serves, but pod digits-painter-x fits on no node",
    ),
    "nothing serves yet": (DOWN, deployment(0, 2), [pod(**NO_GPU)], (), False, "AsWanted", "nothing"),
}


@pytest.mark.parametrize("row", DEGRADED)
def test_degraded_is_said_where_it_serves_with_less_than_is_wanted(digits: dict[str, Any], row: str) -> None:
    head, painters, pods, left_out, is_degraded, reason, message = DEGRADED[row]
    seen = observed(head, painters, pods)
    found = conditions(status_of(digits, Observed(seen.deployments, seen.pods, (), left_out)))["Degraded"]
    assert (found["status"] == "True", found["reason"]) == (is_degraded, reason)
    assert message in found["message"]


# name: (head, painters, Suspended, reason, part of the message)
SUSPENSIONS: dict[str, tuple[Any, Any, bool, str, str]] = {
    "no pod is left": (deployment(0, 0), deployment(0, 0), True, "Suspended", "all else is kept"),
    "pods still finish what they run": (deployment(0, 0), deployment(1, 2), False, "Suspending", "2 pods are still"),
    "it never ran": (None, None, True, "Suspended", "all else is kept"),
}


@pytest.mark.parametrize("row", SUSPENSIONS)
def test_a_suspended_pipeline_says_so(digits: dict[str, Any], row: str) -> None:
    head, painters, is_suspended, reason, message = SUSPENSIONS[row]
    found = conditions(status_of(edited(digits, {"spec.suspend": True}), observed(head, painters, [])))
    assert (found["Suspended"]["status"] == "True", found["Suspended"]["reason"]) == (is_suspended, reason)
    assert message in found["Suspended"]["message"]
    assert (found["Ready"]["status"], found["Ready"]["reason"]) == ("False", "Suspended")
    assert found["HeadReady"]["reason"] == "Suspended"


def test_a_pipeline_that_runs_is_not_suspended(digits: dict[str, Any]) -> None:
    found = conditions(status_of(digits, observed(UP, deployment(2, 2), [])))
    assert (found["Suspended"]["status"], found["Ready"]["status"]) == ("False", "True")


def test_a_paused_pipeline_says_so_and_is_ready_all_the_same(digits: dict[str, Any]) -> None:
    found = conditions(status_of(edited(digits, {"spec.paused": True}), observed(UP, deployment(2, 2), [])))
    assert (found["Progressing"]["status"], found["Progressing"]["reason"]) == ("False", "Paused")
    assert found["Ready"]["status"] == "True"


def test_a_condition_keeps_its_time_until_it_changes(digits: dict[str, Any]) -> None:
    first = status_of(digits, observed(DOWN, deployment(0, 2), []))
    second = status_of(digits, observed(DOWN, deployment(1, 2), []), previous=first, now=LATER)
    third = status_of(digits, observed(UP, deployment(2, 2), []), previous=second, now=LATER)
    assert conditions(second)["Ready"]["lastTransitionTime"] == NOW
    assert conditions(third)["Ready"]["lastTransitionTime"] == LATER
    assert conditions(third)["Accepted"]["lastTransitionTime"] == NOW


@pytest.mark.parametrize("row", ROWS)
def test_the_same_observation_gives_the_same_status(digits: dict[str, Any], row: str) -> None:
    head, painters, pods, *_ = ROWS[row]
    first = status_of(digits, observed(head, painters, pods))
    assert status_of(digits, observed(head, painters, pods[::-1]), previous=first, now=LATER) == first


def test_an_invalid_spec_keeps_the_counts_and_names_the_field(digits: dict[str, Any]) -> None:
    before = status_of(digits, observed(UP, deployment(2, 2), []))
    with pytest.raises(InvalidSpec) as caught:
        parse(edited(digits, {"spec.head.stage": "nope"}))
    after = rejected_status(2, caught.value, before, LATER).model_dump(by_alias=True, mode="json", exclude_none=True)
    found = conditions(after)
    assert (after["observedGeneration"], after["readyReplicas"]) == (2, 2)
    assert (found["Accepted"]["status"], found["Accepted"]["reason"]) == ("False", "InvalidSpec")
    assert "spec.head.stage: 'nope' is not a stage" in found["Accepted"]["message"]
    assert found["Ready"]["status"] == "False"
    assert found["HeadReady"]["status"] == "True", "what ran before runs on"


# name: (replicas that serve inside the head (2 wanted), Ready, its reason, part of its message, Degraded)
IN_HEAD: dict[str, tuple[int | None, bool, str, str, bool]] = {
    "both serve": (2, True, "Serving", "painter 2/2 ready", False),
    "one is away": (1, False, "ReplicaDown", "the head: a replica inside it does not serve; it starts them", True),
    "both are away": (0, False, "ReplicaDown", "the head: 2 replicas inside it do not serve", True),
    "the head does not tell": (None, True, "Serving", "painter 2/2 ready", False),
}


@pytest.mark.parametrize("row", IN_HEAD)
def test_a_replica_that_is_missing_inside_the_head_is_told_of_while_the_head_serves_on(
    digits: dict[str, Any], row: str
) -> None:
    serving, is_ready, reason, message, is_degraded = IN_HEAD[row]
    seen = replace(observed(UP, deployment(2, 2), []), serving_in_head=serving)
    found = conditions(status_of(edited(digits, {"spec.head.localReplicas": 2}), seen))
    assert (found["Ready"]["status"] == "True", found["Ready"]["reason"]) == (is_ready, reason)
    assert message in found["Ready"]["message"]
    assert found["HeadReady"]["status"] == "True"
    assert (found["Degraded"]["status"] == "True") is is_degraded
    assert (found["Progressing"]["status"] == "True") is not is_ready


def prefetching(**status: Any) -> dict[str, Any]:
    metadata = {"name": "digits-fetch-x", "labels": {"omnipipeline.dev/role": "prefetch"}}
    return {"metadata": metadata, "status": status}


# name: (the Job's pod, Ready's reason, part of its message, Progressing, its reason)
FETCHING: dict[str, tuple[dict[str, Any], str, str, bool, str]] = {
    "it downloads": (prefetching(**STARTED), "Prefetching", "before the first pod starts", True, "Prefetching"),
    "the token may not read it": (
        prefetching(**waiting("CrashLoopBackOff", "", CRASH)),
        "CrashLoopBackOff",
        "before the first pod starts; container omni of pod digits-fetch-x keeps ending: exit code 2: omni serve",
        False,
        "CrashLoopBackOff",
    ),
}


@pytest.mark.parametrize("row", FETCHING)
def test_while_models_are_downloaded_first_the_status_says_so(digits: dict[str, Any], row: str) -> None:
    fetching, reason, message, is_progressing, why = FETCHING[row]
    seen = replace(observed(None, None, [fetching]), is_prefetching=True)
    found = conditions(status_of(digits, seen))
    assert (found["Ready"]["status"], found["Ready"]["reason"]) == ("False", reason)
    assert message in found["Ready"]["message"]
    assert (found["HeadReady"]["reason"], found["Degraded"]["status"]) == ("Prefetching", "False")
    assert (found["Progressing"]["status"] == "True", found["Progressing"]["reason"]) == (is_progressing, why)
