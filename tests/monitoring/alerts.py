"""What each alert is for, in series: one story in which it fires, with its words, and one in which it must not."""

from dataclasses import dataclass, field

Series = dict[str, str]
GALLERY = {"namespace": "gallery", "pipeline": "digits"}
PAINTER = {**GALLERY, "stage": "painter"}
OF_OPERATOR = {"pipeline_namespace": "gallery", "pipeline": "digits", "instance": "op-1"}
OPERATOR = {"namespace": "omni-system", "pod": "op-1", "instance": "op-1"}


def series(name: str, labels: dict[str, str], **more: str) -> str:
    told = ", ".join(f'{key}="{value}"' for key, value in {**labels, **more}.items())
    return f"{name}{{{told}}}"


def requests(**outcomes: str) -> Series:
    return {series("omni_requests_total", GALLERY, outcome=outcome): values for outcome, values in outcomes.items()}


def leading(values: str, **more: str) -> Series:
    return {series("omni_operator_leading", {**OPERATOR, **more}): values}


@dataclass(frozen=True)
class Story:
    """`fires` is a value a minute: at minute `at` the alert says `says`, with `labels`. In `quiet` it never fires."""

    fires: Series
    at: int
    labels: dict[str, str]
    says: str
    quiet: Series = field(default_factory=dict)


STORIES = {
    "OmniRequestsFailing": Story(
        requests(completed="0+90x30", failed="0+10x30", aborted="0+900x30"), 15, GALLERY,
        "10% of its requests ended in an error of a model.",
        quiet=requests(completed="0+1x30", failed="0 0 0 1x30"),
    ),
    "OmniRequestsRefused": Story(
        requests(completed="0+75x30", busy="0+25x30"), 15, GALLERY, "25% of its requests are answered 429.",
        quiet=requests(completed="0+96x30", busy="0+4x30"),
    ),
    "OmniRequestsUnavailable": Story(
        requests(completed="0+50x30", unavailable="0+50x30"), 15, GALLERY, "50% of its requests are answered 503.",
        quiet=requests(completed="0+1x30", unavailable="0 0 0 1x30", aborted="0+5x30"),
    ),
    "OmniQueueSlow": Story(
        {
            series("omni_engine_predicted_wait_seconds", PAINTER, pod="a"): "90x30",
            series("omni_engine_predicted_wait_seconds", PAINTER, pod="b"): "120x30",
        },
        15, PAINTER, "A request that comes now waits 1m 30s until a replica begins with it.",
        quiet={
            series("omni_engine_predicted_wait_seconds", PAINTER, pod="a"): "90x30",
            series("omni_engine_predicted_wait_seconds", PAINTER, pod="b"): "5x30",
        },
    ),
    "OmniHeadDown": Story(
        {series("up", GALLERY, role="head", pod="head-1"): "1x2 0x20"}, 5, {**GALLERY, "role": "head", "pod": "head-1"},
        "Prometheus cannot read head-1: its API answers nobody, or Prometheus may not reach it.",
        quiet={series("up", PAINTER, role="replica", pod="a"): "0x30", series("up", GALLERY, role="head"): "1 0 1x30"},
    ),
    "OmniStageDown": Story(
        {series("omni_stage_ready", PAINTER): "0x20"}, 10, PAINTER,
        "Requests wait at its head for 5 s, and are answered 503 then.",
        quiet={series("omni_stage_ready", PAINTER): "0x3 1x30"},
    ),
    "OmniReplicaDown": Story(
        {series("omni_replica_state", PAINTER, replica="1", state="ERROR"): "0 1x20"}, 3,
        {**PAINTER, "replica": "1", "state": "ERROR"},
        "It was killed, fell silent, or was cut off. What it ran is run again elsewhere.",
        quiet={
            series("omni_replica_state", PAINTER, replica="1", state="UP"): "1x30",
            series("omni_replica_state", PAINTER, replica="1", state="ERROR"): "0 1 0x30",
        },
    ),
    "OmniReplicaRestarting": Story(
        {series("omni_replica_restarts_total", PAINTER, pod="a", index="0"): "0 1 2 3x30"}, 30, {**PAINTER, "pod": "a"},
        "It was started again 3 times within half an hour.",
        quiet={series("omni_replica_restarts_total", PAINTER, pod="a", index="0"): "0 1 2x40"},
    ),
    "OmniPodRestarting": Story(
        {series("process_start_time_seconds", GALLERY, role="head", pod="h"): "100x9 700x9 1300x9 1900x30"}, 40,
        {**GALLERY, "role": "head", "pod": "h"}, "It was started again 3 times within the hour.",
        quiet={series("process_start_time_seconds", GALLERY, role="head", pod="h"): "100x9 700x9 1300x30"},
    ),
    "OmniReplicaDrainStuck": Story(
        {series("omni_replica_state", PAINTER, replica="1", state="DRAINING"): "0 1x30"}, 20,
        {**PAINTER, "replica": "1", "state": "DRAINING"},
        "It drains for longer than a quarter of an hour, and keeps its devices.",
        quiet={series("omni_replica_state", PAINTER, replica="1", state="DRAINING"): "0 1x9 0x30"},
    ),
    "OmniRunsRepeated": Story(
        {series("omni_request_lost_runs_total", PAINTER, reason="crashed"): "0+1x30"}, 15, PAINTER,
        "15 runs were lost with their replicas within a quarter of an hour, and repeated.",
        quiet={
            series("omni_request_lost_runs_total", PAINTER, reason="refused"): "0+5x30",
            series("omni_request_lost_runs_total", PAINTER, reason="crashed"): "0 3 6x30",
        },
    ),
    "OmniMembershipSilent": Story(
        {series("omni_membership_silence_seconds", GALLERY): "0+20x20"}, 5, GALLERY,
        "Its head has heard nothing of its replicas for 1m 40s; it goes by what it knew.",
        quiet={series("omni_membership_silence_seconds", GALLERY): "1x10 31 1x20"},
    ),
    "OmniPipelineNotReady": Story(
        {series("omni_operator_pipeline_ready", OF_OPERATOR): "0x30", **leading("1x30")}, 20, OF_OPERATOR,
        "The condition Ready of the object says why.",
        quiet={series("omni_operator_pipeline_ready", OF_OPERATOR): "0x30", **leading("0x30")},
    ),
    "OmniStagePodsMissing": Story(
        {
            series("omni_operator_stage_pods", OF_OPERATOR, stage="painter", kind="desired"): "3x30",
            series("omni_operator_stage_pods", OF_OPERATOR, stage="painter", kind="ready"): "1x30",
            **leading("1x30"),
        },
        20, {**OF_OPERATOR, "stage": "painter"}, "2 of its pods do not serve.",
        quiet={
            series("omni_operator_stage_pods", OF_OPERATOR, stage="painter", kind="desired"): "3x30",
            series("omni_operator_stage_pods", OF_OPERATOR, stage="painter", kind="ready"): "1x9 3x30",
            **leading("1x30"),
        },
    ),
    "OmniOperatorDown": Story(
        {}, 10, {}, "Pipelines serve on; nothing that is changed is acted on.", quiet=leading("0x30")
    ),
    "OmniOperatorNotLeading": Story(
        {**leading("0x30"), **leading("0x30", instance="op-2")}, 10, {"namespace": "omni-system"},
        "Those that run wait for the Lease omni-operator, which none of them has.",
        quiet={**leading("0x30"), **leading("1x30", instance="op-2")},
    ),
    "OmniReconcileErrors": Story(
        {series("omni_operator_reconcile_seconds_count", OPERATOR, result="refused"): "0+1x40"}, 25,
        {"namespace": "omni-system", "result": "refused"}, "10 of its passes failed within ten minutes.",
        quiet={
            series("omni_operator_reconcile_seconds_count", OPERATOR, result="done"): "0+50x40",
            series("omni_operator_reconcile_seconds_count", OPERATOR, result="not-leading"): "0+50x40",
            series("omni_operator_reconcile_seconds_count", OPERATOR, result="refused"): "0 4x40",
        },
    ),
    "OmniOperatorQueueOld": Story(
        {series("omni_operator_queue_oldest_seconds", OPERATOR): "200x30", **leading("1x30")}, 10, OPERATOR,
        "A pipeline has waited for 3m 20s.",
        quiet={series("omni_operator_queue_oldest_seconds", OPERATOR): "200x30", **leading("0x30")},
    ),
    "OmniWatchSilent": Story(
        {series("omni_operator_watch_silence_seconds", OPERATOR): "450x30"}, 5, OPERATOR,
        "A watch has been silent for 7m 30s; changes are seen by the resync alone.",
        quiet={series("omni_operator_watch_silence_seconds", OPERATOR): "300x30"},
    ),
}  # fmt: skip
