"""Conditions of a pipeline that is degraded, suspended, paused or prefetching, and their transition times."""

from dataclasses import replace
from typing import Any

import pytest

from omni_operator.planning.observed import Failure, Observed, ObservedLora
from tests.operator.edits import edited
from tests.operator.planning.observations import (
    CRASH,
    DOWN,
    LATER,
    NO_GPU,
    NOW,
    STARTED,
    UP,
    conditions,
    deployment,
    observed,
    of_two,
    pod,
    prefetching,
    status_of,
    waiting,
)


def test_a_stage_without_replicas_is_named(two: dict[str, Any]) -> None:
    manifest = edited(two, {"spec.stages.0.replicas": 0})
    found = conditions(status_of(manifest, of_two(DOWN, deployment(0, 0), UP, [])))
    assert found["Ready"]["reason"] == "ScaledToZero"
    assert found["Ready"]["message"] == "no replica is asked for of stage thinker; give it replicas: 1 or more to serve"


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
    "all serve": (UP, deployment(2, 2), [], (), False, "AsExpected", "no part"),
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
    "nothing serves yet": (DOWN, deployment(0, 2), [pod(**NO_GPU)], (), False, "AsExpected", "no part"),
}


@pytest.mark.parametrize("row", DEGRADED)
def test_degraded_is_said_where_it_serves_with_less_than_is_wanted(digits: dict[str, Any], row: str) -> None:
    head, painters, pods, left_out, is_degraded, reason, message = DEGRADED[row]
    seen = observed(head, painters, pods)
    found = conditions(status_of(digits, Observed(seen.deployments, seen.pods, (), left_out)))["Degraded"]
    assert (found["status"] == "True", found["reason"]) == (is_degraded, reason)
    assert message in found["message"]


def test_an_adapter_that_cannot_be_loaded_is_in_the_status(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.stages.0.loras": [{"name": "ink", "source": "hf://org/ink"}]})
    seen = observed(UP, deployment(2, 2), [])
    reason = "LoRA 'ink': hf://org/ink cannot be downloaded: 404"
    for loras, is_degraded in (
        ((ObservedLora("ink", 2), ObservedLora("oil", 0, "a client's own trouble")), False),
        ((ObservedLora("ink", 1, reason),), True),
    ):
        status = status_of(manifest, replace(seen, loras={"painter": loras}))
        degraded = conditions(status)["Degraded"]
        assert (degraded["status"] == "True") is is_degraded
        assert [one["name"] for one in status["stages"][0]["loras"]] == [lora.name for lora in loras]
    assert (degraded["reason"], degraded["message"]) == ("LoraFailed", f"stage painter: {reason}")
    assert status["stages"][0]["loras"] == [{"name": "ink", "replicas": 1, "message": reason}]


# name: (head, painters, pods, Suspended, reason, part of the message)
GONE = deployment(0, 0)
SUSPENSIONS: dict[str, tuple[Any, Any, list[dict[str, Any]], bool, str, str]] = {
    "no pod is left": (GONE, GONE, [], True, "Suspended", "all else is kept"),
    "pods still finish what they run": (GONE, deployment(1, 2), [], False, "Suspending", "2 pods are still"),
    "pods that no Deployment counts": (GONE, GONE, [pod(), pod(role="head")], False, "Suspending", "2 pods are still"),
    "pods that have ended": (GONE, GONE, [pod(phase="Failed")], True, "Suspended", "all else is kept"),
    "pods that download a model": (GONE, GONE, [pod(role="prefetch")], True, "Suspended", "all else is kept"),
    "it never ran": (None, None, [], True, "Suspended", "all else is kept"),
}


@pytest.mark.parametrize("row", SUSPENSIONS)
def test_a_suspended_pipeline_says_so(digits: dict[str, Any], row: str) -> None:
    head, painters, pods, is_suspended, reason, message = SUSPENSIONS[row]
    found = conditions(status_of(edited(digits, {"spec.suspend": True}), observed(head, painters, pods)))
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


def test_a_download_that_has_given_up_is_reported(digits: dict[str, Any]) -> None:
    job = {"kind": "Job", "metadata": {"name": "digits-fetch-1"}}
    job["status"] = {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}
    found = conditions(status_of(digits, replace(observed(None, None, []), is_prefetching=True, jobs=[job])))
    assert (found["Ready"]["reason"], found["Progressing"]["status"]) == ("PrefetchFailed", "False")
    assert "the Job digits-fetch-1 has given up; another one starts" in found["Ready"]["message"]


def test_a_download_that_waits_for_quota_is_no_failure(digits: dict[str, Any]) -> None:
    job = {"kind": "Job", "metadata": {"name": "digits-fetch"}, "spec": {"suspend": True}, "status": {}}
    found = conditions(status_of(digits, replace(observed(None, None, []), is_prefetching=True, jobs=[job])))
    assert (found["Ready"]["reason"], found["Progressing"]["status"]) == ("WaitingForQuota", "True")
    assert "the Job digits-fetch is suspended until there is quota" in found["Ready"]["message"]


def test_a_pipeline_that_serves_while_other_models_are_downloaded_says_both(digits: dict[str, Any]) -> None:
    found = conditions(status_of(digits, replace(observed(UP, UP, []), is_prefetching=True)))
    assert (found["HeadReady"]["status"], found["HeadReady"]["reason"]) == ("True", "Serving")
    assert (found["Ready"]["status"], found["Ready"]["reason"]) == ("False", "Prefetching")
    message = "painter 1/2 ready; the models are being downloaded before pods are replaced; until then they serve"
    assert found["Ready"]["message"].startswith(message)
    assert (found["Progressing"]["status"], found["Progressing"]["reason"]) == ("True", "Prefetching")
