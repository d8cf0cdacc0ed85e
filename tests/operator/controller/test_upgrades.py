"""After an upgrade of the operator, pipelines get their new pods a few at a time, and say that they wait."""

import itertools
from typing import Any

import pytest

from omni_operator.controller.heads.autoscaler import Autoscaler
from omni_operator.controller.heads.head_poller import HeadPoller
from omni_operator.controller.metrics import OperatorMetrics
from omni_operator.controller.reconcile import Reconciler
from omni_operator.controller.upgrades import Upgrades
from omni_operator.controller.watches.informers import Informers
from omni_operator.crd.objects import PipelineKey
from omni_operator.kube.errors import ApiError
from omni_operator.planning.manifests.pod import Surroundings
from tests.operator.controller.fake_cluster import FakeCluster
from tests.operator.edits import edited
from tests.operator.managed_fields import applied

NAMES = ("a", "b", "c")
LATE = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}


class Cluster(FakeCluster):
    """Its Deployments are rolled out as soon as they are applied, unless `is_slow`."""

    is_slow = False
    _changes = itertools.count(10_000)

    def change(self, kind: str, name: str, edits: dict[str, Any]) -> None:
        """Change an object as others do, so that a watch takes it for newer."""
        newer = {"metadata.resourceVersion": str(next(self._changes))}
        self.objects[kind, name] = edited(self.objects[kind, name], edits | newer)

    def _write(self, verb: str, resource: Any, content: Any) -> Any:
        written = super()._write(verb, resource, content)
        if resource.kind == "Deployment" and verb in ("apply", "create"):
            generation = self.objects["Deployment", written["metadata"]["name"]]["metadata"].get("generation", 0) + 1
            written = applied(edited(written, {"metadata.generation": generation}))
            self.objects["Deployment", written["metadata"]["name"]] = written
            if not self.is_slow:
                self.roll_out(written["metadata"]["name"])
        return self.objects.get((resource.kind, content["metadata"]["name"]), written)

    def roll_out(self, name: str, **more: Any) -> None:
        deployment = self.objects["Deployment", name]
        copies = deployment["spec"]["replicas"]
        counts = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas"), copies)
        status: dict[str, Any] = {"observedGeneration": deployment["metadata"]["generation"], **counts, **more}
        self.change("Deployment", name, {"status": status})

    def images(self) -> dict[str, str]:
        """The image that each pipeline's painters are to run."""
        deployments = {name: self.objects["Deployment", f"{name}-painter"] for name in NAMES}
        return {
            name: one["spec"]["template"]["spec"]["containers"][0]["image"].removeprefix("worker:")
            for name, one in deployments.items()
        }


class Operator:
    """An operator process with a default image, over a cluster in memory."""

    def __init__(self, cluster: Cluster, image: str, limit: int = 1) -> None:
        self.cluster, self.woken = cluster, list[PipelineKey]()
        self.informers = Informers(cluster, (None,), lambda key: None)
        self.reconciler = Reconciler(
            cluster, self.informers, Autoscaler(lambda pipeline: {}, lambda: 0.0), HeadPoller(lambda pipeline: 0),
            Upgrades(limit, self.woken.append), OperatorMetrics(), Surroundings(image), lambda: "2026-01-01T00:00:00Z",
        )  # fmt: skip

    def run(self, *names: str) -> None:
        """A pass over each pipeline."""
        for name in names or NAMES:
            for content in list(self.cluster.objects.values()):
                if content["kind"] == "OmniPipeline":
                    self.informers.put_pipeline(content)
                elif content["kind"] != "Secret":
                    self.informers.put_child(content)
            self.reconciler.reconcile("default", name)

    def progressing(self, name: str) -> tuple[str, str]:
        conditions = self.cluster.objects["OmniPipeline", name]["status"]["conditions"]
        return next((one["status"], one["reason"]) for one in conditions if one["type"] == "Progressing")


@pytest.fixture
def cluster(digits: dict[str, Any]) -> Cluster:
    """Three pipelines that an operator with the image `worker:1` has settled."""
    edits = [{"metadata.name": name, "metadata.uid": name, "metadata.namespace": "default"} for name in NAMES]
    own = {"metadata.generation": 1, "metadata.creationTimestamp": "2026-01-01T00:00:00Z"}
    cluster = Cluster(*(edited(digits, own | each) for each in edits))
    operator = Operator(cluster, "worker:1")
    operator.run()
    operator.run()
    assert set(cluster.images().values()) == {"1"}
    cluster.is_slow = True
    return cluster


def test_one_pipeline_after_the_other_gets_the_new_image(cluster: Cluster) -> None:
    operator = Operator(cluster, "worker:2")
    operator.run()
    assert cluster.images() == {"a": "2", "b": "1", "c": "1"}
    assert [operator.progressing(name)[1] == "WaitingForTurn" for name in NAMES] == [False, True, True]
    operator.run()
    assert cluster.images() == {"a": "2", "b": "1", "c": "1"}
    cluster.roll_out("a-painter")
    operator.run("a")
    assert operator.woken == [], "its head comes after its stages, in the same turn"
    cluster.roll_out("a-head")
    operator.run("a")
    assert operator.woken == [("default", "b")]
    operator.run("c", "b")
    assert cluster.images() == {"a": "2", "b": "2", "c": "1"}


def test_an_operator_of_the_same_version_changes_nothing(cluster: Cluster) -> None:
    cluster.writes.clear()
    Operator(cluster, "worker:1").run()
    assert cluster.writes == []


def test_a_pipeline_whose_spec_changes_waits_for_nobody(cluster: Cluster) -> None:
    operator = Operator(cluster, "worker:2")
    operator.run()
    cluster.change("OmniPipeline", "c", {"metadata.generation": 2, "spec.stages.0.replicas": 3})
    operator.run("c")
    assert cluster.images() == {"a": "2", "b": "1", "c": "2"}


@pytest.mark.parametrize("trouble", ["late", "paused", "deleted", "refused"])
def test_a_pipeline_that_does_not_get_on_holds_up_nobody(cluster: Cluster, trouble: str) -> None:
    operator = Operator(cluster, "worker:2")
    operator.run()
    if trouble == "late":
        cluster.roll_out("a-painter", conditions=[LATE], readyReplicas=0)
    elif trouble == "deleted":
        cluster.change("OmniPipeline", "a", {"metadata.deletionTimestamp": "2026-01-01T00:00:00Z"})
    elif trouble == "refused":
        cluster.rejected["Deployment"] = ApiError(403, "Forbidden", "exceeded quota")
        cluster.change("Deployment", "a-painter", {"metadata.annotations": {}})
    else:
        cluster.change("OmniPipeline", "a", {"metadata.generation": 2, "spec.paused": True})
    try:
        operator.run("a")
    except Exception:
        assert trouble == "refused"
    assert operator.woken == [("default", "b")]
