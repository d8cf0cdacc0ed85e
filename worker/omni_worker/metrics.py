"""The metrics of a process, in Prometheus' terms. Names start with `omni_`; times are seconds."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from omni_worker.orchestrator.stage_pool import StagePool
    from omni_worker.replica.supervisor import Child

LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class HeadMetrics:
    """What a head counts as requests go by."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter("omni_requests", "Requests that ended, by outcome", ["outcome"], registry=registry)
        self._retries = Counter(
            "omni_request_retries",
            "Runs of a request that were repeated on another replica",
            ["stage"],
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

    def retried(self, stage: str) -> None:
        """Count a repeated run."""
        self._retries.labels(stage).inc()


class PoolCollector(Collector):
    """The head's view of every replica, read when Prometheus asks."""

    def __init__(self, pools: "Iterable[StagePool]") -> None:
        self._pools = list(pools)

    def collect(self) -> Iterator[Metric]:
        labels = ["stage", "replica"]
        replicas = GaugeMetricFamily("omni_replica_up", "1 where the replica may get requests", labels=labels)
        in_flight = GaugeMetricFamily("omni_replica_in_flight", "Requests this head has there", labels=labels)
        queued = GaugeMetricFamily("omni_replica_queue_length", "Requests waiting there, as reported", labels=labels)
        running = GaugeMetricFamily("omni_replica_running", "Requests running there, as reported", labels=labels)
        for pool in self._pools:
            for member in pool.members:
                values = [pool.stage.name, member.name]
                replicas.add_metric(values, float(member.replica.state == "UP"))
                in_flight.add_metric(values, member.client.in_flight)
                queued.add_metric(values, member.replica.load.queue_length)
                running.add_metric(values, member.replica.load.running)
        yield from (replicas, in_flight, queued, running)


class ChildCollector(Collector):
    """What a process's own replicas tell of themselves, read when Prometheus asks."""

    COUNTERS = {
        "engine_steps": "Turns of the engine's loop that ran something",
        "engine_step_seconds": "Time in those turns",
        "completed": "Requests completed",
        "batched_calls": "Model calls that shared a forward pass",
        "single_calls": "Model calls that ran alone",
    }
    GAUGES = {
        "waiting": "Requests waiting in the scheduler",
        "running": "Requests running in the scheduler",
        "states": "Request states held by the runner",
        "keys_batched": "Kinds of call proven to batch",
        "keys_alone": "Kinds of call found to run right only alone",
    }

    def __init__(self, children: "list[Child]") -> None:
        self._children = children

    def collect(self) -> Iterator[Metric]:
        for name, text in self.COUNTERS.items():
            counter = CounterMetricFamily(f"omni_engine_{name.removeprefix('engine_')}", text, labels=["index"])
            for child in self._children:
                counter.add_metric([str(child.index)], child.stats.get(name, 0))
            yield counter
        for name, text in self.GAUGES.items():
            gauge = GaugeMetricFamily(f"omni_engine_{name}", text, labels=["index"])
            for child in self._children:
                gauge.add_metric([str(child.index)], child.stats.get(name, 0))
            yield gauge
        restarts = CounterMetricFamily("omni_replica_restarts", "Times the replica was started again", labels=["index"])
        for child in self._children:
            restarts.add_metric([str(child.index)], child.restarts)
        yield restarts


def render(registry: CollectorRegistry) -> bytes:
    """The text that Prometheus reads."""
    return generate_latest(registry)
