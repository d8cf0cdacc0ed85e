"""The head's replicas as Prometheus metrics."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from omni_worker.orchestrator.stage_pool import StagePool


class PoolCollector(Collector):
    """The head's view of every replica, read when Prometheus asks."""

    def __init__(self, pools: Iterable[StagePool]) -> None:
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
