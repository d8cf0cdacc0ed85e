"""The Events of a change of the status: each change once, and none without a change."""

from typing import Any

import pytest

from omni_operator.controller.metrics import OperatorMetrics, seconds_to_ready
from omni_operator.crd.status_types import Condition, StageStatus, Status
from omni_operator.planning.events import event_object, status_events

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z"


def status(desired: int = 2, accepted: bool = True, since: str = NOW, **reasons: str) -> Status:
    """By default `Ready="Serving"` and `Progressing="Complete"`. Ready is true if its reason is Serving."""
    given = {"Ready": "Serving", "Progressing": "Complete", **reasons}
    rows = [("Accepted", accepted, "Valid" if accepted else "InvalidSpec")]
    rows += [(kind, kind == "Ready" and reason == "Serving", reason) for kind, reason in given.items()]
    return Status(
        stages=(StageStatus(name="painter", desired=desired, replicas=2, ready=1, updated=2),),
        conditions=tuple(
            Condition.model_validate(
                {"type": kind, "status": str(is_true), "reason": reason, "message": "m", "lastTransitionTime": since}
            )
            for kind, is_true, reason in rows
        ),
    )


def as_read(content: Status | None) -> dict[str, Any]:
    return content.model_dump(by_alias=True, mode="json", exclude_none=True) if content else {}


# name: (the status before, the status now, the reasons of the Events)
ROWS: dict[str, tuple[Status | None, Status, list[str]]] = {
    "it was made": (None, status(Ready="Starting"), ["Created"]),
    "it was made wrongly": (None, status(accepted=False, Ready="NotAccepted"), ["InvalidSpec"]),
    "it serves": (status(Ready="Starting"), status(), ["Ready"]),
    "nothing is new": (status(), status(), []),
    "only counts are new": (status(), status().model_copy(update={"replicas": 7}), []),
    "it was scaled": (status(2), status(5, Ready="Starting", Progressing="Scaling"), ["Scaled"]),
    "a rollout began": (status(), status(Ready="RollingOut", Progressing="RollingOut"), []),
    "a rollout ended": (status(Ready="RollingOut", Progressing="RollingOut"), status(), ["RolledOut", "Ready"]),
    "it is in trouble": (status(), status(Ready="CrashLoopBackOff"), ["CrashLoopBackOff"]),
    "it is in the same trouble": (status(Ready="Unschedulable"), status(Ready="Unschedulable"), []),
    "it is in another trouble": (status(Ready="Unschedulable"), status(Ready="Crashed"), ["Crashed"]),
    "the spec became invalid": (status(), status(accepted=False, Ready="NotAccepted"), ["InvalidSpec"]),
}


@pytest.mark.parametrize("row", ROWS)
def test_what_is_news(row: str) -> None:
    before, now, reasons = ROWS[row]
    assert [event.reason for event in status_events(as_read(before), now)] == reasons


@pytest.mark.parametrize(
    ("reason", "is_warning"), [("Prefetching", False), ("WaitingForQuota", False), ("CrashLoopBackOff", True)]
)
def test_what_only_takes_its_time_is_no_warning(reason: str, is_warning: bool) -> None:
    (event,) = status_events(as_read(status()), status(Ready=reason))
    assert (event.reason, event.is_warning) == (reason, is_warning)


def test_an_event_is_about_its_pipeline_and_of_its_namespace() -> None:
    pipeline = {"metadata": {"name": "digits", "namespace": "gallery", "uid": "u", "resourceVersion": "7"}}
    (event,) = status_events(as_read(status(2)), status(5))
    content = event_object(pipeline, event, NOW)
    assert (content["involvedObject"]["uid"], content["metadata"]["namespace"]) == ("u", "gallery")
    assert content["message"] == "stage painter: from 2 to 5 pods"
    assert content == event_object(pipeline, event, NOW)


# name: (the status before, the status now, the seconds that it took)
TIMES: dict[str, tuple[Status | None, Status, float | None]] = {
    "from being made": (None, status(since=LATER), 90.0),
    "from not being ready": (status(Ready="Starting"), status(since=LATER), 90.0),
    "it was ready already": (status(), status(since=NOW), None),
    "it is not ready": (None, status(Ready="Starting"), None),
}


@pytest.mark.parametrize("row", TIMES)
def test_the_time_to_ready(row: str) -> None:
    before, now, expected = TIMES[row]
    assert seconds_to_ready({"metadata": {"creationTimestamp": NOW}, "status": as_read(before)}, now) == expected


def test_a_pipeline_is_shown_ready_or_not_and_not_at_all_where_that_is_wanted() -> None:
    metrics = OperatorMetrics()

    def shown(now: Status | None) -> float | None:
        metrics.set_pipeline("gallery", "digits", now)
        labels = {"pipeline_namespace": "gallery", "pipeline": "digits"}
        return metrics.registry.get_sample_value("omni_operator_pipeline_ready", labels)

    asked = (status(), status(Ready="Starting"), status(Ready="Suspended"), status(), None)
    assert [shown(one) for one in asked] == [1, 0, None, 1, None]


def test_the_counts_of_a_pipeline_go_with_it() -> None:
    metrics = OperatorMetrics()
    metrics.set_pipeline("gallery", "digits", status(5))
    labels = {"pipeline_namespace": "gallery", "pipeline": "digits", "stage": "painter", "kind": "desired"}
    assert metrics.registry.get_sample_value("omni_operator_stage_pods", labels) == 5
    metrics.set_pipeline("gallery", "digits", None)
    assert metrics.registry.get_sample_value("omni_operator_stage_pods", labels) is None
