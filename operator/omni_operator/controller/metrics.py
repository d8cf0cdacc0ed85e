"""What the operator tells Prometheus of its own work, and of the pipelines it looks after; served by a small server."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from omni_operator.crd.status_types import Status

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
READY_SECONDS = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
KINDS = ("desired", "ready")
PREFIX = "omni_operator"
SUSPENDED = "Suspended"


class OperatorMetrics:
    """Every series of the operator, in a registry of its own."""

    def __init__(self) -> None:
        here = self.registry = CollectorRegistry()
        ProcessCollector(registry=here)
        self.reconcile = Histogram(
            f"{PREFIX}_reconcile_seconds",
            "Time of one pass over a pipeline, by how it ended",
            ["result"],
            buckets=SECONDS,
            registry=here,
        )
        self.calls = Counter(
            f"{PREFIX}_api_calls",
            "Calls of the API server, by verb and status; 0: no answer",
            ["verb", "code"],
            registry=here,
        )
        self.queue_depth = Gauge(f"{PREFIX}_queue_depth", "Pipelines that wait for a pass", registry=here)
        self.queue_age = Gauge(
            f"{PREFIX}_queue_oldest_seconds", "How long the oldest has waited, or is worked on", registry=here
        )
        self.watch_age = Gauge(
            f"{PREFIX}_watch_silence_seconds", "How long the most silent watch has heard nothing", registry=here
        )
        self.leading = Gauge(f"{PREFIX}_leading", "1 where this operator acts", registry=here)
        self.replicas = Gauge(
            f"{PREFIX}_stage_pods",
            "Headless pods of a stage: desired and ready",
            ["pipeline_namespace", "pipeline", "stage", "kind"],
            registry=here,
        )
        self.pipelines = Gauge(
            f"{PREFIX}_pipeline_ready",
            "1 where the pipeline is Ready, and 0 where it is not; none where it is suspended",
            ["pipeline_namespace", "pipeline"],
            registry=here,
        )
        self.ready = Histogram(
            f"{PREFIX}_pipeline_ready_seconds",
            "Time from not being Ready, or being made, to Ready",
            buckets=READY_SECONDS,
            registry=here,
        )
        self._stages: dict[tuple[str, str], set[str]] = {}

    def serve(self, port: int) -> None:
        start_http_server(port, registry=self.registry)

    def heard(self, verb: str, code: int) -> None:
        self.calls.labels(verb, str(code)).inc()

    def show(self, namespace: str, pipeline: str, status: Status | None) -> None:
        """The counts of a pipeline; None where it is gone."""
        self._show_ready(namespace, pipeline, status)
        stages = {stage.name: stage for stage in status.stages} if status else {}
        for name in self._stages.get((namespace, pipeline), set()) - set(stages):
            for kind in KINDS:
                self.replicas.remove(namespace, pipeline, name, kind)
        for name, stage in stages.items():
            self.replicas.labels(namespace, pipeline, name, "desired").set(stage.desired)
            self.replicas.labels(namespace, pipeline, name, "ready").set(stage.ready)
        if stages:
            self._stages[namespace, pipeline] = set(stages)
        else:
            self._stages.pop((namespace, pipeline), None)

    def _show_ready(self, namespace: str, pipeline: str, status: Status | None) -> None:
        ready = next((one for one in status.conditions if one.type == "Ready"), None) if status else None
        if ready is None or ready.reason == SUSPENDED:
            self.pipelines.remove(namespace, pipeline)
        else:
            self.pipelines.labels(namespace, pipeline).set(ready.status == "True")


def seconds_to_ready(before: Mapping[str, Any], status: Status) -> float | None:
    """How long a pipeline took that is Ready by this status and was not by its own; None where nothing changed."""
    old = {one.get("type"): one for one in (before.get("status") or {}).get("conditions") or []}.get("Ready") or {}
    new = next((one for one in status.conditions if one.type == "Ready"), None)
    if new is None or new.status != "True" or old.get("status") == "True":
        return None
    since = old.get("lastTransitionTime") or before["metadata"]["creationTimestamp"]
    return max(0.0, (moment(new.last_transition_time) - moment(since)).total_seconds())


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
