"""Passes over a pipeline in a cluster in memory, and the children that a cluster without some kinds gets."""

from typing import Any

import pytest

from omni_operator.controller.errors import Incomplete
from omni_operator.controller.heads.autoscaler import Autoscaler
from omni_operator.controller.heads.head_poller import HeadPoller
from omni_operator.controller.metrics import OperatorMetrics
from omni_operator.controller.reconcile import Reconciler, supported_children
from omni_operator.controller.watches.informers import Informers
from omni_operator.kube.errors import ApiError
from omni_operator.kube.resources import CHILDREN, DISRUPTION_BUDGETS
from tests.operator.controller.fake_cluster import FakeCluster
from tests.operator.edits import edited

BUDGET = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "a"}}
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}
NEW, OLD = DISRUPTION_BUDGETS


def test_a_kind_in_an_older_version_is_created_in_that_version() -> None:
    older = {**BUDGET, "apiVersion": "policy/v1beta1"}
    assert supported_children([BUDGET], {**CHILDREN, OLD.kind: OLD}) == ([older], ())


def test_a_kind_in_its_newest_version_is_created_unchanged() -> None:
    assert supported_children([BUDGET, SERVICE], {**CHILDREN, NEW.kind: NEW}) == ([BUDGET, SERVICE], ())


def test_a_kind_that_the_cluster_lacks_is_left_out_and_named_once() -> None:
    assert supported_children([BUDGET, SERVICE, BUDGET], CHILDREN) == ([SERVICE], ("PodDisruptionBudget",))


# ---- passes


class Pass:
    """A reconciler over a cluster in memory, whose watches see every object at once."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.cluster = FakeCluster(manifest)
        self.key = (manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        self.autoscaler = Autoscaler(lambda pipeline: {}, lambda: 0.0)
        self.informers = Informers(self.cluster, (None,), lambda key: None)
        self.informers.put_pipeline(manifest)
        self.reconciler = Reconciler(
            self.cluster,
            self.informers,
            self.autoscaler,
            HeadPoller(lambda pipeline: 0),
            OperatorMetrics(),
            "worker:test",
            lambda: "2026-01-01T00:00:00Z",
        )

    def run(self) -> None:
        self.reconciler.reconcile(*self.key)

    def conditions(self) -> dict[str, tuple[str, str]]:
        status = self.cluster.objects["OmniPipeline", self.key[1]]["status"]
        return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}


def test_a_pass_creates_the_children_and_reports_and_the_next_one_writes_nothing(digits: dict[str, Any]) -> None:
    first = Pass(digits)
    first.run()
    assert {"Deployment", "Service", "Secret", "OmniPipeline"} <= {kind for _, kind, _ in first.cluster.writes}
    assert first.conditions()["Accepted"][0] == "True"
    first.cluster.writes.clear()
    first.run()
    assert first.cluster.writes == []


def test_an_invalid_pipeline_is_only_reported(digits: dict[str, Any]) -> None:
    invalid = Pass(edited(digits, {"spec.stages.0.autoscaling": "auto"}))
    invalid.run()
    assert {verb for verb, _, _ in invalid.cluster.writes} == {"status", "create"}
    assert invalid.conditions()["Accepted"][0] == "False"


def test_a_rejected_child_is_reported_and_asks_for_another_pass(digits: dict[str, Any]) -> None:
    rejected = Pass(digits)
    rejected.cluster.rejected["ConfigMap"] = ApiError(403, "Forbidden", "not allowed")
    with pytest.raises(Incomplete, match="cannot be made: not allowed"):
        rejected.run()
    assert rejected.conditions()["Ready"] == ("False", "Forbidden")


def test_a_pipeline_that_changed_since_it_was_watched_is_read_again_before_any_write(digits: dict[str, Any]) -> None:
    changed = Pass(digits)
    newer = edited(digits, {"metadata.generation": 2, "metadata.resourceVersion": "2", "spec.replicas": 5})
    changed.cluster.objects["OmniPipeline", "digits"] = newer
    changed.run()
    assert changed.cluster.objects["Deployment", "digits-painter"]["spec"]["replicas"] == 5
    assert changed.cluster.writes.count(("apply", "Deployment", "digits-painter")) == 1


def test_a_deleted_pipeline_is_forgotten_without_a_write(digits: dict[str, Any]) -> None:
    bounds = {"minReplicas": 1, "maxReplicas": 8}
    scaled = Pass(edited(digits, {"spec.stages.0.autoscaling": bounds}))
    scaled.run()
    assert scaled.autoscaler.keys == [scaled.key]
    scaled.cluster.writes.clear()
    del scaled.cluster.objects["OmniPipeline", "digits"]
    scaled.informers.remove_pipeline(digits)
    scaled.run()
    assert scaled.autoscaler.keys == []
    assert scaled.cluster.writes == []
