"""The order in which a change of the image, and other changes, reach the head and the stages."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from omni_operator.crd.objects import Object, Reference
from omni_operator.crd.parsing import parse
from omni_operator.planning.manifests import children
from omni_operator.planning.manifests.pod import Surroundings
from omni_operator.planning.plan import make_plan, reference
from omni_operator.planning.rollout import (
    deployments_waiting_for_drain,
    deployments_waiting_for_head,
    following_claims,
    head_must_wait,
    waiting_for_prefetch,
)
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.edits import REMOVED, edited
from tests.operator.managed_fields import applied

NOW, EARLIER, LATER = "2026-01-01T00:01:00Z", "2026-01-01T00:00:00Z", "2026-01-01T00:02:00Z"
OLD, NEW = {"spec.image.name": "worker:1"}, {"spec.image.name": "worker:2"}


def desired(manifest: dict[str, Any]) -> list[Object]:
    pipeline = parse(manifest)
    return list(children(pipeline, cluster_topology(pipeline), Surroundings("worker:test"), "secret"))


def running(child: Object, **counts: int) -> dict[str, Any]:
    """A Deployment as a server returns it. All its pods run it, unless other counts are given."""
    live = edited(child, {"metadata.generation": 3, "spec.template.spec.dnsPolicy": "ClusterFirst"})
    copies = child["spec"]["replicas"]
    settled = {"observedGeneration": 3, "replicas": copies, "readyReplicas": copies, "updatedReplicas": copies}
    return {**live, "status": {**settled, **counts}}


def deployments(manifest: dict[str, Any]) -> dict[str, Object]:
    return {child["metadata"]["name"]: child for child in desired(manifest) if child["kind"] == "Deployment"}


def waits_for_stages(
    manifest: dict[str, Any], live: Sequence[Mapping[str, Any]], refusing: Collection[str] = ()
) -> bool:
    return head_must_wait(cluster_topology(parse(manifest)), desired(manifest), live, refusing)


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
    assert waits_for_stages(edited(digits, edits), live) is waits


REWRITTEN: dict[str, dict[str, Any]] = {
    "the image gets a digest": {"image": "worker@sha256:" + "a" * 64},
    "the requests are raised": {"resources": {"requests": {"cpu": "500m"}}},
}


@pytest.mark.parametrize("row", REWRITTEN)
def test_a_new_image_reaches_the_head_where_the_server_rewrites_what_is_applied(
    digits: dict[str, Any], row: str
) -> None:
    def stored(child: Object) -> dict[str, Any]:
        edits = {f"spec.template.spec.containers.0.{key}": value for key, value in REWRITTEN[row].items()}
        return edited(running(applied(child)), edits)

    old, new = deployments(edited(digits, OLD)), deployments(edited(digits, NEW))
    wanted = edited(digits, NEW)
    assert waits_for_stages(wanted, [stored(old["digits-head"]), stored(old["digits-painter"])])
    assert not waits_for_stages(wanted, [stored(old["digits-head"]), stored(new["digits-painter"])])


def test_a_stage_that_is_not_there_yet_is_waited_for_only_where_the_head_knows_it(two: dict[str, Any]) -> None:
    alone = edited(two, {**OLD, "spec.stages.0": REMOVED, "spec.stages.0.input": REMOVED})
    live = [running(child) for child in deployments(alone).values()]
    assert not waits_for_stages(edited(two, NEW), live), "a head of one stage would refuse the other's replicas"


def test_both_stages_are_waited_for(two: dict[str, Any]) -> None:
    old, new = deployments(edited(two, OLD)), deployments(edited(two, NEW))
    live = [running(old["two-head"]), running(new["two-thinker"]), running(old["two-painter"])]
    assert waits_for_stages(edited(two, NEW), live)
    live[2] = running(new["two-painter"])
    assert not waits_for_stages(edited(two, NEW), live)


# name: (the stages whose replicas the old head refuses, counts of the thinkers and painters, whether the head waits)
PARTLY, ALL = {"updatedReplicas": 1, "readyReplicas": 0}, dict[str, int]()
REFUSED: dict[str, tuple[set[str], dict[str, int], dict[str, int], bool]] = {
    "both load their model, or are broken": (set(), PARTLY, PARTLY, True),
    "both are refused": ({"thinker", "painter"}, PARTLY, PARTLY, False),
    "one is refused, and the other loads": ({"thinker"}, PARTLY, PARTLY, True),
    "one is refused, and the other serves": ({"thinker"}, PARTLY, ALL, False),
    "what is refused is of the spec before": ({"thinker"}, {**PARTLY, "observedGeneration": 2}, ALL, True),
}


@pytest.mark.parametrize("row", REFUSED)
def test_a_head_that_refuses_the_replicas_of_a_new_image_gets_it_too(two: dict[str, Any], row: str) -> None:
    refusing, thinkers, painters, waits = REFUSED[row]
    old, new = deployments(edited(two, OLD)), deployments(edited(two, NEW))
    live = [
        running(old["two-head"]),
        running(new["two-thinker"], **thinkers),
        running(new["two-painter"], **painters),
    ]
    assert waits_for_stages(edited(two, NEW), live, refusing) is waits


def test_a_head_that_refuses_replicas_waits_for_a_stage_that_has_the_old_image(two: dict[str, Any]) -> None:
    live = [running(child) for child in deployments(edited(two, OLD)).values()]
    assert waits_for_stages(edited(two, NEW), live, {"thinker", "painter"})


PREFETCHED = {"spec.model": {"source": "hf://a/b", "cache": {"size": "1Gi", "prefetch": True}}}
EVERY_POD = [("Deployment", "digits-head"), ("Deployment", "digits-painter")]


def test_no_pod_is_made_before_the_models_are_there(digits: dict[str, Any]) -> None:
    manifest = edited(digits, PREFETCHED)
    (job,) = (child for child in desired(manifest) if child["kind"] == "Job")
    for live in ([], [job], [ended(job, "Failed")]):
        assert held(manifest, live) == EVERY_POD
    assert held(manifest, [ended(job, "Complete")]) == []
    assert held(digits, []) == [], "nothing is to be downloaded first"


def held(manifest: dict[str, Any], live: list[Object]) -> list[Reference]:
    """What waits until the models of a manifest are downloaded."""
    return waiting_for_prefetch(cluster_topology(parse(manifest)), desired(manifest), live)


def ended(job: Object, condition: str) -> dict[str, Any]:
    return {**job, "status": {"conditions": [{"type": condition, "status": "True"}]}}


OTHER_MODEL = {"spec.model": {**PREFETCHED["spec.model"], "source": "hf://c/d"}}
# name: (edits of a pipeline whose own models are there, what waits until other models are)
CHANGES: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "another model": (OTHER_MODEL, [*EVERY_POD, ("ConfigMap", "digits")]),
    "another model, with other counts": ({**OTHER_MODEL, "spec.replicas": 5}, [*EVERY_POD, ("ConfigMap", "digits")]),
    "another model and a new stage": (
        {**OTHER_MODEL, "spec.stages.0.name": "artist", "spec.head": {}},
        [("Deployment", name) for name in ("digits-head", "digits-artist")]
        + [("ConfigMap", "digits"), ("Deployment", "digits-painter")],
    ),
    "only counts": ({**PREFETCHED, "spec.replicas": 5}, []),
}


@pytest.mark.parametrize("row", CHANGES)
def test_pods_that_serve_are_not_replaced_before_the_models_are_there(digits: dict[str, Any], row: str) -> None:
    edits, waits = CHANGES[row]
    before = desired(edited(digits, PREFETCHED))
    live = [running(child) if child["kind"] == "Deployment" else child for child in before if child["kind"] != "Job"]
    after = edited(digits, edits)
    assert held(after, live) == waits
    jobs = [ended(child, "Complete") for child in desired(after) if child["kind"] == "Job"]
    assert held(after, [*live, *jobs]) == []


def test_what_waits_is_scaled(digits: dict[str, Any]) -> None:
    live = [running(child) for child in deployments(edited(digits, PREFETCHED)).values()]
    manifest = edited(digits, {**OTHER_MODEL, "spec.replicas": 5})
    after = desired(manifest)
    plan = make_plan(after, live, "uid-of-digits", "digits")
    waiting = plan.scaling(held(manifest, live), live)
    assert waiting.scale == {("Deployment", "digits-painter"): 5}
    assert waiting.has_work
    assert {child["kind"] for child in plan.apply} - {child["kind"] for child in waiting.apply} == {"Deployment"}
    unchanged = desired(edited(digits, OTHER_MODEL))
    assert make_plan(unchanged, live, "uid-of-digits", "digits").scaling(EVERY_POD, live).scale == {}
    assert make_plan(after, [], "uid-of-digits", "digits").scaling(EVERY_POD, []).scale == {}, "none is there to scale"


def test_a_job_that_has_given_up_is_deleted_and_made_again(digits: dict[str, Any]) -> None:
    wanted = desired(edited(digits, PREFETCHED))
    (job,) = (child for child in wanted if child["kind"] == "Job")
    for condition, is_deleted in {"Failed": True, "Complete": False, "FailureTarget": False}.items():
        plan = make_plan([job], [ended(job, condition)], "uid-of-digits", "digits")
        assert (bool(plan.delete), plan.apply) == (is_deleted, ()), "a Job of the name still exists"
    assert make_plan([job], [], "uid-of-digits", "digits").apply == (job,)


def pod_of(role: str, stage: str | None = None, ends_at: str | None = None, phase: str = "Running") -> dict[str, Any]:
    labels = {"omnipipeline.dev/role": role} | ({"omnipipeline.dev/stage": stage} if stage else {})
    metadata = {"name": f"{role}-{stage}", "labels": labels} | ({"deletionTimestamp": ends_at} if ends_at else {})
    return {"metadata": metadata, "status": {"phase": phase}}


THINKER, PAINTER = pod_of("replica", "thinker"), pod_of("replica", "painter")
# name: (the pods of a suspended pipeline, the Deployments that keep theirs)
DRAINING: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "nothing has drained": ([pod_of("head"), THINKER, PAINTER], ["two-thinker", "two-painter"]),
    "the head drains": ([pod_of("head", ends_at=LATER), THINKER, PAINTER], ["two-thinker", "two-painter"]),
    "the head has ended": ([THINKER, PAINTER], ["two-painter"]),
    "the head ran out of its time": ([pod_of("head", ends_at=EARLIER), THINKER, PAINTER], ["two-painter"]),
    "the head has failed": ([pod_of("head", phase="Failed"), THINKER, PAINTER], ["two-painter"]),
    "the first stage drains": ([pod_of("replica", "thinker", LATER), PAINTER], ["two-painter"]),
    "the first stage has ended": ([PAINTER], []),
    "all have ended": ([], []),
}


@pytest.mark.parametrize("row", DRAINING)
def test_a_suspended_pipeline_drains_from_the_front(two: dict[str, Any], row: str) -> None:
    pods, expected = DRAINING[row]
    suspended = parse(edited(two, {"spec.suspend": True}))
    found = deployments_waiting_for_drain(suspended, cluster_topology(suspended), pods, NOW)
    assert found == [("Deployment", name) for name in expected]
    assert not deployments_waiting_for_drain(parse(two), cluster_topology(parse(two)), pods, NOW)


MODEL, POLICY = {"spec.model.source": "hf://a/b"}, {"spec.loadBalancing.policy": "random"}
SIZE = {"spec.stages.1.scheduling": {"maxNumSeqs": 2}}
STALE = {"observedGeneration": 2}
HEAD_RUNS, HEAD_ENDS = [pod_of("head")], [pod_of("head", ends_at=LATER)]
# name: (edits, whether the head has them already, the head's counts, pods, the Deployments that keep theirs)
REPLACED: dict[str, tuple[dict[str, Any], bool, dict[str, int], list[dict[str, Any]], list[str]]] = {
    "another model": (MODEL, False, {}, HEAD_RUNS, ["two-thinker", "two-painter"]),
    "another model, and the head ends": (
        MODEL,
        True,
        {"updatedReplicas": 0},
        HEAD_ENDS,
        ["two-thinker", "two-painter"],
    ),
    "the head's Deployment has not been looked at": (MODEL, True, STALE, HEAD_RUNS, ["two-thinker", "two-painter"]),
    "the old head has ended": (MODEL, True, {"updatedReplicas": 0}, [], []),
    "the old head is on a lost node": (MODEL, True, {"updatedReplicas": 0}, [pod_of("head", ends_at=EARLIER)], []),
    "the new head is there": (MODEL, True, {}, HEAD_RUNS, []),
    "only the stage that changes": (POLICY | SIZE, False, {}, HEAD_RUNS, ["two-painter"]),
    "the head stays": (SIZE, False, {}, HEAD_RUNS, []),
    "the head is replaced, and a stage is scaled": (POLICY | {"spec.stages.1.replicas": 5}, False, {}, HEAD_RUNS, []),
    "a stage is removed": (
        {"spec.stages.0": REMOVED, "spec.stages.0.input": REMOVED},
        False,
        {},
        HEAD_RUNS,
        ["two-thinker"],
    ),
    "a stage is removed, and the old head has ended": (
        {"spec.stages.0": REMOVED, "spec.stages.0.input": REMOVED},
        True,
        {"updatedReplicas": 0},
        [],
        [],
    ),
}


@pytest.mark.parametrize("row", REPLACED)
def test_stages_keep_their_pods_until_the_old_head_has_answered_its_requests(two: dict[str, Any], row: str) -> None:
    edits, has_head, counts, pods, expected = REPLACED[row]
    manifest = edited(two, edits)
    pipeline, old, new = parse(manifest), deployments(two), deployments(manifest)
    live = [running(child) for child in {**old, "two-head": (new if has_head else old)["two-head"]}.values()]
    live[0] = running(live[0], **counts)
    plan = make_plan(list(new.values()), live, "uid-of-two", "two")
    found = deployments_waiting_for_head(cluster_topology(pipeline), plan, live, pods, NOW)
    assert found == [("Deployment", name) for name in expected]
    held = plan
    for deployment in found:
        held = held.without(deployment)
    assert not {reference(child) for child in (*held.apply, *held.delete)} & set(found)


# ---- where the volume of a cache is

ONE_NODE = {
    "spec.model": {
        **PREFETCHED["spec.model"],
        "cache": {"size": "1Gi", "prefetch": True, "accessMode": "ReadWriteOnce"},
    }
}
CLAIM = {"kind": "PersistentVolumeClaim", "metadata": {"name": "digits-models"}}
# The claim as it is, and the Jobs that there are meanwhile.
CLAIMS: dict[str, tuple[list[Object], list[str]]] = {
    "it is not made yet": ([], ["digits-bind"]),
    "it waits for its first pod": ([{**CLAIM, "status": {"phase": "Pending"}}], ["digits-bind"]),
    "it is bound": ([{**CLAIM, "status": {"phase": "Bound"}}], ["digits-fetch"]),
}


@pytest.mark.parametrize("row", CLAIMS)
def test_a_claim_is_bound_by_a_pod_with_devices_before_a_model_is_downloaded_into_it(
    digits: dict[str, Any], row: str
) -> None:
    live, expected = CLAIMS[row]
    manifest = edited(digits, ONE_NODE)
    wanted = following_claims(desired(manifest), live)
    jobs = [child for child in wanted if child["kind"] == "Job"]
    assert [job["metadata"]["name"].rpartition("-")[0] for job in jobs] == expected
    assert len(wanted) == len(desired(manifest)) - 1
    complete = [*live, *(ended(job, "Complete") for job in jobs)]
    waiting = waiting_for_prefetch(cluster_topology(parse(manifest)), wanted, complete)
    assert waiting == ([] if expected == ["digits-fetch"] else EVERY_POD)


def test_without_such_a_claim_all_objects_are_wanted(digits: dict[str, Any]) -> None:
    for edits in ({}, PREFETCHED, {**ONE_NODE, "spec.stages.0.accelerator": REMOVED}):
        wanted = desired(edited(digits, edits))
        assert following_claims(wanted, []) == wanted
