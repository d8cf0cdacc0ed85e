"""A pass that finds nothing to do is remembered: what makes the next one plan again, and what does not."""

from collections.abc import Callable
from typing import Any

import pytest

from omni_operator.controller import reconcile
from omni_operator.crd.objects import Object, Reference
from tests.operator.controller.passes import Pass, edit

DEPLOYMENT = ("Deployment", "digits-painter")


@pytest.fixture
def settled(digits: dict[str, Any]) -> Pass:
    """A pipeline whose last pass found nothing to do."""
    passes = Pass(digits)
    passes.run()
    passes.run()
    passes.cluster.calls.clear()
    return passes


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each plan that is made."""
    made: list[int] = []
    original = reconcile.make_plan

    def make_plan(*arguments: Any) -> Any:
        made.append(1)
        return original(*arguments)

    monkeypatch.setattr(reconcile, "make_plan", make_plan)
    return made


def see(passes: Pass, reference: Reference, change: Callable[[dict[str, Any]], object]) -> None:
    """Somebody changes a child, and the watch reports it."""
    live = passes.cluster.objects[reference]
    changed: dict[str, Any] = {**live, "metadata": {**live["metadata"], "resourceVersion": "1000"}}
    change(changed)
    passes.cluster.objects[reference] = changed
    passes.informers._cache.put(changed)


def test_counts_of_pods_are_reported_without_a_plan(settled: Pass, plans: list[int]) -> None:
    status = {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
    see(settled, DEPLOYMENT, lambda live: live.update(status=status))
    settled.run()
    assert plans == []
    assert [(verb, kind) for verb, kind, _ in settled.cluster.calls] == [("status", "OmniPipeline")]
    assert settled.cluster.objects["OmniPipeline", "digits"]["status"]["stages"][0]["ready"] == 1


def take_hash(live: dict[str, Any]) -> None:
    live["metadata"]["annotations"] = {}


@pytest.mark.parametrize("kind", ["Deployment", "Service", "ConfigMap", "NetworkPolicy", "ServiceAccount"])
def test_a_change_of_a_child_is_undone(settled: Pass, kind: str) -> None:
    reference = next(ref for ref in settled.cluster.objects if ref[0] == kind)
    see(settled, reference, take_hash)
    settled.run()
    assert ("apply", *reference) in settled.cluster.calls


@pytest.mark.parametrize("kind", ["Deployment", "Service", "ConfigMap", "NetworkPolicy", "ServiceAccount"])
def test_a_deleted_child_is_made_again(settled: Pass, kind: str) -> None:
    reference = next(ref for ref in settled.cluster.objects if ref[0] == kind)
    settled.informers._cache.remove(settled.cluster.objects.pop(reference))
    settled.run()
    assert ("apply", *reference) in settled.cluster.calls


def test_a_child_that_is_no_longer_wanted_is_deleted(settled: Pass) -> None:
    live = settled.cluster.objects[DEPLOYMENT]
    other: Object = {**live, "metadata": {**live["metadata"], "name": "digits-other", "uid": "other"}}
    settled.cluster.objects["Deployment", "digits-other"] = other
    settled.informers._cache.put(other)
    settled.run()
    assert ("delete", "Deployment", "digits-other") in settled.cluster.calls


@pytest.mark.parametrize(
    ("change", "reference"),
    [
        ({"spec.stages.0.replicas": 3, "metadata.generation": 2}, DEPLOYMENT),
        ({"spec.head.podLabels": {"team": "a"}, "metadata.generation": 2}, ("Deployment", "digits-head")),
    ],
)
def test_an_edit_is_followed(settled: Pass, change: dict[str, Any], reference: Reference) -> None:
    edit(settled, change)
    settled.run()
    assert ("apply", *reference) in settled.cluster.calls


def test_a_deleted_secret_gets_a_successor(settled: Pass) -> None:
    (secret,) = [ref for ref in settled.cluster.objects if ref[0] == "Secret"]
    del settled.cluster.objects[secret]
    settled.reconciler.secrets.look_again(settled.key)
    settled.run()
    assert ("apply", *DEPLOYMENT) in settled.cluster.calls


def test_a_pipeline_of_the_same_name_starts_anew(settled: Pass, plans: list[int], digits: dict[str, Any]) -> None:
    settled.cluster.objects.clear()
    settled.informers.remove_pipeline(digits)
    settled.run()
    assert settled.reconciler.settled == {}
