"""Passes over a pipeline in a cluster in memory."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from omni_operator.controller.heads.autoscaler import Autoscaler
from omni_operator.controller.heads.head_api import HeadState
from omni_operator.controller.heads.head_poller import HeadPoller
from omni_operator.controller.metrics import OperatorMetrics
from omni_operator.controller.reconcile import Reconciler
from omni_operator.controller.upgrades import Upgrades
from omni_operator.controller.watches.informers import Informers
from omni_operator.planning.autoscale import StageLoad
from omni_operator.planning.manifests.pod import Surroundings
from tests.operator.controller.fake_cluster import FakeCluster
from tests.operator.edits import edited


class Pass:
    """A reconciler over a cluster in memory, whose watches see every object at once."""

    def __init__(self, manifest: dict[str, Any], load: Mapping[str, StageLoad] = MappingProxyType({})) -> None:
        self.cluster = FakeCluster(manifest)
        self.key = (manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        self.head_state = HeadState(0)
        self.autoscaler = Autoscaler(lambda pipeline: load, lambda: 0.0)
        self.informers = Informers(self.cluster, (None,), lambda key: None)
        self.informers.put_pipeline(manifest)
        self.reconciler = Reconciler(
            self.cluster,
            self.informers,
            self.autoscaler,
            HeadPoller(lambda pipeline: self.head_state),
            Upgrades(1, lambda key: None),
            OperatorMetrics(),
            Surroundings("worker:test"),
            lambda: "2026-01-01T00:00:00Z",
        )

    def run(self) -> None:
        self.reconciler.reconcile(*self.key)

    def conditions(self) -> dict[str, tuple[str, str]]:
        status = self.cluster.objects["OmniPipeline", self.key[1]]["status"]
        return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}


def edit(passes: Pass, edits: dict[str, Any]) -> None:
    """Somebody edits the pipeline of these passes."""
    manifest = edited(passes.cluster.objects["OmniPipeline", passes.key[1]], edits)
    passes.informers.put_pipeline(passes.cluster.edit(manifest))
