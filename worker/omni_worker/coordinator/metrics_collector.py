"""Prometheus metrics of the coordinator."""

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from omni_worker.coordinator.coordinator import Coordinator
from omni_worker.coordinator.hub import Hub

COUNTERS = {
    "registered": "Registrations that were taken",
    "refused": "Registrations that were refused",
    "reports": "Updates and heartbeats of replicas",
    "malformed": "Messages to the master and the coordinator that could not be read",
    "rejected": "Connections without the right secret, or that speak another protocol",
    "published_bytes": "Bytes of membership that each hub was sent",
}


class MembershipCollector(Collector):
    """Collects the coordinator's counts, and the hub's time without a publication, when Prometheus scrapes."""

    def __init__(self, coordinator: Coordinator, hub: Hub) -> None:
        self._coordinator = coordinator
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        for name, text in COUNTERS.items():
            value = getattr(self._coordinator.traffic, name)
            yield CounterMetricFamily(f"omni_membership_{name}", text, value=value)
        silence = time.monotonic() - self._hub.last_publication_at
        yield GaugeMetricFamily(
            "omni_membership_silence_seconds", "Time since the head heard its own coordinator", value=silence
        )
