"""The operator's Prometheus metrics, about its own work and about its pipelines, and the HTTP server for them."""

from datetime import datetime
from socket import has_dualstack_ipv6
from threading import Thread

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from omni_operator.crd.objects import Object, PipelineKey
from omni_operator.crd.status_types import Status

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
READY_SECONDS = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
STAGE_POD_KINDS = ("desired", "ready")
PREFIX = "omni_operator"
SUSPENDED = "Suspended"


class OperatorMetrics:
    """All metrics of the operator, in a separate registry."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.reconcile_seconds = Histogram(
            f"{PREFIX}_reconcile_seconds",
            "Time of one pass over a pipeline, by how it ended",
            ["result"],
            buckets=SECONDS,
            registry=registry,
        )
        self.api_calls = Counter(
            f"{PREFIX}_api_calls",
            "Calls of the API server, by verb and status; 0: no answer",
            ["verb", "code"],
            registry=registry,
        )
        self.queue_depth = Gauge(f"{PREFIX}_queue_depth", "Pipelines that wait for a pass", registry=registry)
        self.queue_oldest_seconds = Gauge(
            f"{PREFIX}_queue_oldest_seconds", "How long the oldest has waited, or is worked on", registry=registry
        )
        self.watch_silence_seconds = Gauge(
            f"{PREFIX}_watch_silence_seconds", "How long the most silent watch has heard nothing", registry=registry
        )
        self.failing_heads = Gauge(
            f"{PREFIX}_failing_heads",
            "Heads whose last poll got no usable answer; the log has the reasons",
            registry=registry,
        )
        self.leading = Gauge(f"{PREFIX}_leading", "1 where this operator acts", registry=registry)
        self.stage_pods = Gauge(
            f"{PREFIX}_stage_pods",
            "Headless pods of a stage: desired and ready",
            ["pipeline_namespace", "pipeline", "stage", "kind"],
            registry=registry,
        )
        self.pipeline_ready = Gauge(
            f"{PREFIX}_pipeline_ready",
            "1 where the pipeline is Ready, and 0 where it is not; none where it is suspended",
            ["pipeline_namespace", "pipeline"],
            registry=registry,
        )
        self.pipeline_ready_seconds = Histogram(
            f"{PREFIX}_pipeline_ready_seconds",
            "Time from not being Ready, or being made, to Ready",
            buckets=READY_SECONDS,
            registry=registry,
        )
        self._stages: dict[PipelineKey, set[str]] = {}
        """The stages of each pipeline that have series, so that a later status can remove them."""

    def serve(self, port: int) -> Thread:
        """Start the HTTP server. Returns its thread."""
        _, thread = start_http_server(port, "::" if has_dualstack_ipv6() else "0.0.0.0", self.registry)
        return thread

    def count_call(self, verb: str, code: int) -> None:
        """Count one call of the API server. `code`: the HTTP status, 0 without an answer."""
        self.api_calls.labels(verb, str(code)).inc()

    def set_pipeline(self, namespace: str, name: str, status: Status | None) -> None:
        """Set a pipeline's series from its status. None removes them: it was deleted, or another operator serves it."""
        self._set_pipeline_ready(namespace, name, status)
        stages = {stage.name: stage for stage in status.stages} if status else {}
        for removed in self._stages.get((namespace, name), set()) - set(stages):
            for kind in STAGE_POD_KINDS:
                self.stage_pods.remove(namespace, name, removed, kind)
        for stage in stages.values():
            self.stage_pods.labels(namespace, name, stage.name, "desired").set(stage.desired)
            self.stage_pods.labels(namespace, name, stage.name, "ready").set(stage.ready)
        if stages:
            self._stages[namespace, name] = set(stages)
        else:
            self._stages.pop((namespace, name), None)

    def _set_pipeline_ready(self, namespace: str, name: str, status: Status | None) -> None:
        ready = next((one for one in status.conditions if one.type == "Ready"), None) if status else None
        if ready is None or ready.reason == SUSPENDED:
            self.pipeline_ready.remove(namespace, name)
        else:
            self.pipeline_ready.labels(namespace, name).set(ready.status == "True")


def seconds_to_ready(pipeline: Object, status: Status) -> float | None:
    """Seconds that a pipeline took to become Ready, if the new `status` makes it Ready; otherwise None.

    Counts from the time at which it stopped being Ready, or was created. `pipeline` carries the previous status.
    """
    conditions = (pipeline.get("status") or {}).get("conditions") or []
    old: Object = next((one for one in conditions if one.get("type") == "Ready"), {})
    new = next((one for one in status.conditions if one.type == "Ready"), None)
    if new is None or new.status != "True" or old.get("status") == "True":
        return None
    start = old.get("lastTransitionTime") or pipeline["metadata"]["creationTimestamp"]
    return max(0.0, (parse_time(new.last_transition_time) - parse_time(start)).total_seconds())


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
