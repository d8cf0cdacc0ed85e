"""The execution of a plan: what happens to one child does not stop the others."""

from dataclasses import replace
from typing import Any

import pytest

from omni_operator.controller.errors import NameConflict
from omni_operator.controller.executor import create_child, execute
from omni_operator.crd.parsing import parse
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.kube.errors import ApiError
from omni_operator.planning.plan import Plan
from tests.operator.controller.fake_cluster import FakeCluster


@pytest.fixture
def pipeline(digits: dict[str, Any]) -> OmniPipeline:
    return parse(digits)


def child(kind: str, name: str, uid: str | None = None) -> dict[str, Any]:
    owner = {"kind": "OmniPipeline", "name": "digits", "uid": uid, "controller": True}
    metadata = {
        "namespace": "gallery",
        "name": name,
        "uid": f"uid-of-{name}",
        "ownerReferences": [owner] if uid else [],
    }
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}


def plan(*apply: dict[str, Any], delete: tuple[dict[str, Any], ...] = ()) -> Plan:
    return Plan(apply=apply, adopted={}, delete=delete, conflicts=(), handed_over={})


def test_a_rejected_child_is_a_failure_and_the_others_are_applied(pipeline: OmniPipeline) -> None:
    cluster = FakeCluster()
    cluster.rejected["ConfigMap"] = ApiError(403, "Forbidden", "not allowed")
    applied, failures = execute(cluster, pipeline, plan(child("ConfigMap", "a"), child("Service", "b")))
    assert [one["kind"] for one in applied] == ["Service"]
    assert [(one.reason, one.message) for one in failures] == [
        ("Forbidden", "ConfigMap a cannot be made: not allowed"),
    ]


def test_a_race_ends_the_pass(pipeline: OmniPipeline) -> None:
    cluster = FakeCluster()
    cluster.rejected["ConfigMap"] = ApiError(409, "Conflict", "the object has been modified")
    with pytest.raises(ApiError):
        execute(cluster, pipeline, plan(child("ConfigMap", "a"), child("Service", "b")))


def test_a_child_that_cannot_be_deleted_is_a_failure(pipeline: OmniPipeline) -> None:
    old = child("Service", "old", pipeline.metadata.uid)
    cluster = FakeCluster(old)
    assert execute(cluster, pipeline, plan(delete=(old,))) == ([], [])
    assert cluster.writes == [("delete", "Service", "old")]
    cluster.rejected["Service"] = ApiError(403, "Forbidden", "not allowed")
    _, failures = execute(cluster, pipeline, plan(delete=(old,)))
    assert [one.message for one in failures] == [
        "Service old is no longer wanted but cannot be deleted: not allowed",
    ]


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("kind", ["ConfigMap", "Service"])
def test_an_unseen_object_of_the_pipeline_is_adopted(pipeline: OmniPipeline, kind: str, is_new: bool) -> None:
    cluster = FakeCluster(child(kind, "a", pipeline.metadata.uid))
    applied = create_child(cluster, pipeline, child(kind, "a"), is_new)
    assert applied["metadata"]["uid"] == "uid-of-a"
    assert cluster.writes == [("apply", kind, "a")]


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("kind", ["ConfigMap", "Service"])
def test_an_unseen_object_of_somebody_else_is_not_touched(pipeline: OmniPipeline, kind: str, is_new: bool) -> None:
    cluster = FakeCluster(child(kind, "a", "uid-of-another"))
    with pytest.raises(NameConflict):
        create_child(cluster, pipeline, child(kind, "a"), is_new)
    _, failures = execute(cluster, pipeline, plan(child(kind, "a")), is_new)
    assert [one.message for one in failures] == [f"{kind} a exists and is not ours; rename it, or the pipeline"]
    assert cluster.writes == []


def test_what_waits_is_scaled_and_only_if_it_is_the_object_that_was_seen(pipeline: OmniPipeline) -> None:
    cluster = FakeCluster()
    ref = ("Deployment", "digits-painter")
    waiting = replace(plan(), adopted={ref: "uid-of-the-live-one"}, scale={ref: 3})
    ((scaled,), failures) = execute(cluster, pipeline, waiting)
    assert (scaled["spec"], scaled["metadata"]["uid"]) == ({"replicas": 3}, "uid-of-the-live-one")
    assert (cluster.writes, failures) == ([("merge", *ref)], [])
    cluster.rejected["Deployment"] = ApiError(403, "Forbidden", "not allowed")
    _, (failure,) = execute(cluster, pipeline, waiting)
    assert failure.message == "Deployment digits-painter cannot be scaled: not allowed"
