"""What a head counts while requests run, as Prometheus metrics. Names start with `omni_`; times are in seconds."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram

from omni_worker.telemetry.journal import Journal

LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
WAIT_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60)

OUTCOMES = ("completed", "invalid", "failed", "refused", "busy", "unavailable", "aborted")
LOSSES = ("crashed", "stalled", "left", "refused", "failed")
REFUSALS = ("unknown_key", "missing_key", "rate", "host", "origin")


class AccessMetrics:
    """Counts requests that the API refused before it looked at what they ask for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refused = Counter(
            "omni_api_refused",
            "Requests that the API refused by their sender: an unknown or missing key, a key beyond its rate, or a web "
            "page of another site (host, origin)",
            ["reason"],
            registry=registry,
        )
        for reason in REFUSALS:
            self._refused.labels(reason)

    def refused(self, reason: str) -> None:
        """Count one."""
        self._refused.labels(reason).inc()


class HeadMetrics:
    """Counters and histograms of requests, by outcome and stage.

    Every series starts at 0, because Prometheus sees no increase in a series whose first value is 1.
    """

    def __init__(self, registry: CollectorRegistry, stages: Iterable[str] = ()) -> None:
        self._requests = Counter(
            "omni_requests",
            "Requests that ended, by outcome: completed, or why not (invalid: HTTP 400; busy: all queues were full)",
            ["outcome"],
            registry=registry,
        )
        self._retries = Counter(
            "omni_request_retries",
            "Runs of a request that were repeated on another replica",
            ["stage"],
            registry=registry,
        )
        self._losses = Counter(
            "omni_request_lost_runs",
            "Runs that came to nothing, by why: the replica crashed, stalled, left, refused while draining, or failed",
            ["stage", "reason"],
            registry=registry,
        )
        self._seconds = Histogram(
            "omni_request_seconds",
            "Time from admission to the end of completed requests",
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )
        self._stage_seconds = Histogram(
            "omni_stage_seconds",
            "Time that completed requests took at a stage, waiting and repeated runs included",
            ["stage"],
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )
        self._waits = Histogram(
            "omni_stage_dispatch_wait_seconds",
            "Time that requests waited at the head for a replica of a stage",
            ["stage"],
            registry=registry,
            buckets=WAIT_BUCKETS,
        )
        for outcome in OUTCOMES:
            self._requests.labels(outcome)
        for stage in stages:
            for metric in (self._retries, self._stage_seconds, self._waits):
                metric.labels(stage)
            for reason in LOSSES:
                self._losses.labels(stage, reason)

    def count_request(self, outcome: str, journal: Journal) -> None:
        """Count a request that ended. `outcome` is `completed`, or the kind of the error."""
        self._requests.labels(outcome).inc()
        for visit in journal.visits:
            self._waits.labels(visit.stage).observe(visit.waited)
        if outcome == "completed":
            self._seconds.observe(journal.seconds)
            for visit in journal.visits:
                self._stage_seconds.labels(visit.stage).observe(visit.seconds)

    def count_invalid(self) -> None:
        """Count a request that was rejected before it started, because it is invalid."""
        self._requests.labels("invalid").inc()

    def count_lost_run(self, stage: str, reason: str) -> None:
        """Count a run that gave no result, without a fault of the request."""
        self._losses.labels(stage, reason).inc()

    def count_retry(self, stage: str) -> None:
        """Count a request that runs again on another replica."""
        self._retries.labels(stage).inc()
