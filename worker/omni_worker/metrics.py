"""The metrics of a process, in Prometheus' terms. Names start with `omni_`; times are seconds."""

from prometheus_client import CollectorRegistry, Counter, Histogram

LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class HeadMetrics:
    """What a head counts as requests go by."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "omni_requests",
            "Requests that ended, by outcome: completed, or why not (busy: all queues were full)",
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
            "Runs that came to nothing, by why: the replica crashed, stalled, left, or refused, for it was draining",
            ["stage", "reason"],
            registry=registry,
        )
        self._seconds = Histogram(
            "omni_request_seconds",
            "Time from admission to the end of completed requests",
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )

    def request_ended(self, outcome: str, seconds: float) -> None:
        """Count a request; `outcome` is completed, or the kind of its error."""
        self._requests.labels(outcome).inc()
        if outcome == "completed":
            self._seconds.observe(seconds)

    def run_lost(self, stage: str, reason: str) -> None:
        """Count a run that came to nothing for no fault of the request."""
        self._losses.labels(stage, reason).inc()

    def retried(self, stage: str) -> None:
        """Count a repeated run."""
        self._retries.labels(stage).inc()
