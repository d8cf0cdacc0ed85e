"""A process's own replicas as Prometheus metrics."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from omni_worker.replica.supervisor import Child

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


class ChildCollector(Collector):
    """What a process's own replicas tell of themselves, read when Prometheus asks."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children

    def collect(self) -> Iterator[Metric]:
        for name, text in COUNTERS.items():
            counter = CounterMetricFamily(f"omni_engine_{name.removeprefix('engine_')}", text, labels=["index"])
            for child in self._children:
                counter.add_metric([str(child.index)], child.stats.get(name, 0))
            yield counter
        for name, text in GAUGES.items():
            gauge = GaugeMetricFamily(f"omni_engine_{name}", text, labels=["index"])
            for child in self._children:
                gauge.add_metric([str(child.index)], child.stats.get(name, 0))
            yield gauge
        restarts = CounterMetricFamily("omni_replica_restarts", "Times the replica was started again", labels=["index"])
        for child in self._children:
            restarts.add_metric([str(child.index)], child.restarts)
        yield restarts
