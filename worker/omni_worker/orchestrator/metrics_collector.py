"""Prometheus metrics of stages and replicas, as the head sees them."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from omni_worker.coordinator.messages import ReplicaState
from omni_worker.orchestrator.balancers import ReplicaKey
from omni_worker.orchestrator.member import Member
from omni_worker.orchestrator.result_cache import ResultCache
from omni_worker.orchestrator.stage_pool import StagePool

GAUGES: dict[str, tuple[str, Callable[[Member], float]]] = {
    "up": ("1 where the replica may get requests", lambda member: float(member.is_up)),
    "ejected": (
        "1 where the replica gets no requests for a while, for they failed there and not elsewhere",
        lambda member: float(member.record.is_ejected),
    ),
    "in_flight": ("Requests this head has there", lambda member: member.in_flight),
    "queue_length": ("Requests waiting there, as reported", lambda member: member.replica.load.queue_length),
    "running": ("Requests running there, as reported", lambda member: member.replica.load.running),
    "capacity": ("Requests that may run there at one time", lambda member: member.replica.load.capacity),
    "step_seconds": ("Time that a step takes there in the mean", lambda member: member.replica.load.step_ms / 1e3),
}
COUNTS = {
    "drains": "Replicas that began to drain",
    "ejections": "Replicas that were ejected for a while, because requests failed there and not elsewhere",
    "tokens": "Tokens that the stage wrote, those of runs that were lost too",
    "images": "Pictures and videos that the stage made",
}


class PoolCollector(Collector):
    """Collects the state of every pool when Prometheus scrapes.

    `silence` returns, for a time on the monotonic clock, the seconds since each replica last reported.
    """

    def __init__(self, pools: Iterable[StagePool], silence: Callable[[float], Mapping[ReplicaKey, float]]) -> None:
        self._pools = list(pools)
        self._silence = silence

    def collect(self) -> Iterator[Metric]:
        labels, silence = ["stage", "replica"], self._silence(time.monotonic())
        families = {
            name: GaugeMetricFamily(f"omni_replica_{name}", text, labels=labels) for name, (text, _) in GAUGES.items()
        }
        states = GaugeMetricFamily("omni_replica_state", "1 for the state it is in", labels=[*labels, "state"])
        ages = GaugeMetricFamily("omni_replica_heartbeat_age_seconds", "Time since it was heard of", labels=labels)
        completed = CounterMetricFamily(
            "omni_replica_completed", "Requests completed there, as reported", labels=labels
        )
        counts = {
            name: CounterMetricFamily(f"omni_stage_{name}", text, labels=["stage"]) for name, text in COUNTS.items()
        }
        ready = GaugeMetricFamily(
            "omni_stage_ready", "1 where a request finds a replica of the stage up, or wakes one", labels=["stage"]
        )
        waiting = GaugeMetricFamily(
            "omni_stage_waiting", "Requests that wait at the head for a replica of the stage", labels=["stage"]
        )
        for pool in self._pools:
            waiting.add_metric([pool.stage.name], pool.waiting)
            ready.add_metric([pool.stage.name], float(pool.is_ready))
            for name, count in counts.items():
                count.add_metric([pool.stage.name], getattr(pool, name))
            for member in pool.members:
                values = [pool.stage.name, member.name]
                for name, (_, value) in GAUGES.items():
                    families[name].add_metric(values, value(member))
                for state in ReplicaState:
                    states.add_metric([*values, state], float(member.replica.state is state))
                completed.add_metric(values, member.replica.load.completed)
                if member.replica.key in silence:
                    ages.add_metric(values, silence[member.replica.key])
        yield from (*families.values(), states, ages, completed, *counts.values(), ready, waiting)


class ResultCacheCollector(Collector):
    """Collects the figures of a head's result cache when Prometheus scrapes."""

    def __init__(self, results: ResultCache) -> None:
        self._results = results

    def collect(self) -> Iterator[Metric]:
        results, prefix = self._results, "omni_result_cache"
        yield CounterMetricFamily(f"{prefix}_hits", "Requests that were answered from it", results.hits)
        yield CounterMetricFamily(f"{prefix}_misses", "Requests that could have been, and ran", results.misses)
        yield GaugeMetricFamily(f"{prefix}_bytes", "Size of the results that it keeps", results.size)
