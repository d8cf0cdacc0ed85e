"""The order in which a change of the image, and other changes, reach the head and the stages."""

from typing import Any

import pytest

from omni_operator.crd.objects import Object
from omni_operator.crd.parsing import parse
from omni_operator.planning.manifests import children
from omni_operator.planning.rollout import deployments_waiting_for_prefetch, head_must_wait
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.edits import REMOVED, edited

OLD, NEW = {"spec.image.name": "worker:1"}, {"spec.image.name": "worker:2"}


def desired(manifest: dict[str, Any]) -> list[Object]:
    pipeline = parse(manifest)
    return list(children(pipeline, cluster_topology(pipeline), "worker:test", "secret"))


def running(child: Object, **counts: int) -> dict[str, Any]:
    """A Deployment as a server returns it. All its pods run it, unless other counts are given."""
    live = edited(child, {"metadata.generation": 3, "spec.template.spec.dnsPolicy": "ClusterFirst"})
    copies = child["spec"]["replicas"]
    settled = {"observedGeneration": 3, "replicas": copies, "readyReplicas": copies, "updatedReplicas": copies}
    return {**live, "status": {**settled, **counts}}


def deployments(manifest: dict[str, Any]) -> dict[str, Object]:
    return {child["metadata"]["name"]: child for child in desired(manifest) if child["kind"] == "Deployment"}


# name: (edits of the desired manifest, counts of the painters, edits that they run, the head's counts, whether to wait)
ROWS: dict[str, tuple[dict[str, Any], dict[str, int], dict[str, Any], dict[str, int], bool]] = {
    "nothing changes": (OLD, {}, OLD, {}, False),
    "a new image has reached no stage yet": (NEW, {}, OLD, {}, True),
    "a new image is on its way through a stage": (NEW, {"updatedReplicas": 1, "readyReplicas": 1}, NEW, {}, True),
    "the first replica of a new image does not start": (NEW, {"updatedReplicas": 1, "readyReplicas": 1}, NEW, {}, True),
    "the counts are of the spec before": (NEW, {"observedGeneration": 2}, NEW, {}, True),
    "every replica runs the new image": (NEW, {}, NEW, {}, False),
    "the head serves nobody, so that nothing is lost": (NEW, {}, OLD, {"readyReplicas": 0}, False),
    "no replica is wanted": ({**NEW, "spec.replicas": 0}, {}, {**NEW, "spec.replicas": 0}, {}, False),
    "another model comes with the image": ({**NEW, "spec.model.source": "hf://a/b"}, {}, OLD, {}, False),
    "another policy comes with the image": ({**NEW, "spec.loadBalancing.policy": "random"}, {}, OLD, {}, False),
    "it is suspended with the new image": ({**NEW, "spec.suspend": True}, {}, OLD, {}, False),
    "the new image is taken back in mid-rollout": (OLD, {"updatedReplicas": 1}, NEW, {}, False),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_head_that_serves_takes_a_new_image_last(digits: dict[str, Any], row: str) -> None:
    edits, counts, runs, head_counts, waits = ROWS[row]
    old, current = deployments(edited(digits, OLD)), deployments(edited(digits, runs))
    live = [running(old["digits-head"], **head_counts), running(current["digits-painter"], **counts)]
    assert head_must_wait(desired(edited(digits, edits)), live) is waits


def test_a_stage_that_is_not_there_yet_is_waited_for_only_where_the_head_knows_it(two: dict[str, Any]) -> None:
    alone = edited(two, {**OLD, "spec.stages.0": REMOVED, "spec.stages.0.input": REMOVED})
    live = [running(child) for child in deployments(alone).values()]
    assert not head_must_wait(desired(edited(two, NEW)), live), "a head of one stage would refuse the other's replicas"


def test_both_stages_are_waited_for(two: dict[str, Any]) -> None:
    old, new = deployments(edited(two, OLD)), deployments(edited(two, NEW))
    live = [running(old["two-head"]), running(new["two-thinker"]), running(old["two-painter"])]
    assert head_must_wait(desired(edited(two, NEW)), live)
    live[2] = running(new["two-painter"])
    assert not head_must_wait(desired(edited(two, NEW)), live)


PREFETCHED = {"spec.model": {"source": "hf://a/b", "cache": {"size": "1Gi", "prefetch": True}}}
EVERY_POD = [("Deployment", "digits-head"), ("Deployment", "digits-painter")]


def test_no_pod_is_made_before_the_models_are_there_and_none_is_held_that_was_made(digits: dict[str, Any]) -> None:
    manifest = edited(digits, PREFETCHED)
    (job,) = (child for child in desired(manifest) if child["kind"] == "Job")
    failing = {**job, "status": {"conditions": [{"type": "Failed", "status": "True"}]}}
    complete = {**job, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    for live in ([], [job], [failing]):
        assert deployments_waiting_for_prefetch(desired(manifest), live) == EVERY_POD
    assert deployments_waiting_for_prefetch(desired(manifest), [complete]) == []
    live = [running(child) for child in deployments(digits).values()]
    assert deployments_waiting_for_prefetch(desired(manifest), live) == [], "what serves another model goes on"
    assert deployments_waiting_for_prefetch(desired(digits), []) == [], "nothing is to be downloaded first"
