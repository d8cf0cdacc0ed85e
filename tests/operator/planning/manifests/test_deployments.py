"""The Deployments of a pipeline: their strategy, selectors, and which changes restart which pods."""

from typing import Any

import pytest

from tests.operator.edits import edited
from tests.operator.rendered import pod, rendered


def test_selectors_match_their_pods_and_only_those(digits: dict[str, Any]) -> None:
    objects = rendered(digits)
    head, painter = pod(digits, "digits-head"), pod(digits)
    for key, mine, other in (
        (("Deployment", "digits-head"), head, painter),
        (("Deployment", "digits-painter"), painter, head),
        (("Service", "digits"), head, painter),
        (("Service", "digits-head"), head, painter),
    ):
        spec = objects[key]["spec"]
        selector = (spec["selector"].get("matchLabels") or spec["selector"]).items()
        assert selector <= mine["metadata"]["labels"].items()
        assert not selector <= other["metadata"]["labels"].items()


def test_the_head_is_never_there_twice_and_replicas_never_surge(digits: dict[str, Any]) -> None:
    objects = rendered(digits)
    assert objects["Deployment", "digits-head"]["spec"]["strategy"] == {"type": "Recreate"}
    assert objects["Deployment", "digits-painter"]["spec"]["strategy"]["rollingUpdate"] == {
        "maxUnavailable": 1,
        "maxSurge": 0,
    }


# Edits of the manifest and the Deployments that they restart: pods restart exactly when their template changes.
RESTARTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "to suspend changes no pod": ({"spec.suspend": True}, set()),
    "another type of Service restarts nothing": ({"spec.service": {"type": "NodePort"}}, set()),
    "scaling restarts nothing": ({"spec.replicas": 7}, set()),
    "another label restarts nothing": ({"metadata.labels": {"a": "b"}}, set()),
    "another generation restarts nothing": ({"metadata.generation": 9}, set()),
    "other clients restart nothing": ({"spec.networkPolicy": {"clients": [{"podSelector": {}}]}}, set()),
    "another rollout restarts nothing": ({"spec.stages.0.rollout.maxSurge": 1}, set()),
    "another policy restarts the head": ({"spec.loadBalancing.policy": "random"}, {"digits-head"}),
    "another batch size restarts the replicas": ({"spec.stages.0.scheduling.maxNumSeqs": 2}, {"digits-painter"}),
    "another image restarts all": ({"spec.image.name": "me/worker:2"}, {"digits-head", "digits-painter"}),
    "another model restarts all": ({"spec.model.source": "hf://a/b"}, {"digits-head", "digits-painter"}),
    "another template of the stage restarts the replicas": (
        {"spec.stages.0.template": {"spec": {"nodeSelector": {"a": "b"}}}},
        {"digits-painter"},
    ),
}


@pytest.mark.parametrize("row", RESTARTS)
def test_what_restarts(digits: dict[str, Any], row: str) -> None:
    edits, expected = RESTARTS[row]
    after = edited(digits, edits)
    assert {name for name in ("digits-head", "digits-painter") if pod(after, name) != pod(digits, name)} == expected


REWRITER = {"name": "rewriter", "engine": "autoregressive"}


# The same for a thinker and a painter.
RESTARTS_OF_TWO: dict[str, tuple[dict[str, Any], set[str]]] = {
    "scaling one stage restarts nothing": ({"spec.stages.1.replicas": 5}, set()),
    "a stage in front restarts the head alone": ({"spec.stages.insert": REWRITER}, {"two-head"}),
    "another batch size of a stage restarts that stage": (
        {"spec.stages.0.scheduling": {"maxNumSeqs": 2}},
        {"two-thinker"},
    ),
    "what a thinker is told restarts the head alone": ({"spec.stages.0.system": "Be brief."}, {"two-head"}),
    "how much a thinker writes restarts the head alone": ({"spec.stages.0.maxTokens": 64}, {"two-head"}),
    "another input restarts the head alone": ({"spec.stages.1.input": "text"}, {"two-head"}),
    "another model of a stage restarts it and the head": (
        {"spec.stages.0.model": {"source": "hf://a/b"}},
        {"two-head", "two-thinker"},
    ),
    "only to encode spares the painter its text encoder": (
        {"spec.stages.0.task": "encode"},
        {"two-head", "two-thinker", "two-painter"},
    ),
}


@pytest.mark.parametrize("row", RESTARTS_OF_TWO)
def test_what_restarts_of_two_stages(two: dict[str, Any], row: str) -> None:
    edits, expected = RESTARTS_OF_TWO[row]
    if "spec.stages.insert" in edits:
        edits = {"spec.stages": [edits["spec.stages.insert"], *two["spec"]["stages"]]}
    after = edited(two, edits)
    names = ("two-head", "two-thinker", "two-painter")
    assert {name for name in names if pod(after, name) != pod(two, name)} == expected


def test_another_secret_restarts_all_pods(two: dict[str, Any]) -> None:
    for name in ("two-head", "two-thinker", "two-painter"):
        assert pod(two, name, "another") != pod(two, name)


def with_grace(seconds: object) -> dict[str, Any]:
    return {"spec.stages.0.template": {"spec": {"terminationGracePeriodSeconds": seconds}}}


# name: (edits, seconds that an old pod may take to end)
GRACE: dict[str, tuple[dict[str, Any], int]] = {
    "as the spec is": ({}, 330),
    "a long drain": ({"spec.stages.0.drain.timeoutSeconds": 3600}, 3630),
    "a grace period of the user's": (with_grace(7200), 7200),
    "none of all": (with_grace(0), 0),
    "that of Kubernetes": (with_grace(None), 30),
    "what the server will refuse": (with_grace("long"), 30),
}


@pytest.mark.parametrize("row", GRACE)
def test_a_rollout_is_late_only_after_the_drain_and_the_startup(digits: dict[str, Any], row: str) -> None:
    edits, grace = GRACE[row]
    objects = rendered(edited(digits, {**edits, "spec.stages.0.startupTimeoutSeconds": 900}))
    assert objects["Deployment", "digits-painter"]["spec"]["progressDeadlineSeconds"] == grace + 900 + 120


def test_a_deadline_beyond_all_numbers_is_the_largest_there_is(digits: dict[str, Any]) -> None:
    objects = rendered(edited(digits, with_grace(10**12)))
    assert objects["Deployment", "digits-painter"]["spec"]["progressDeadlineSeconds"] == 2**31 - 1


def test_a_head_is_late_only_after_the_drains_of_all_stages(two: dict[str, Any]) -> None:
    edits = {"spec.stages.0.drain": {"timeoutSeconds": 100}, "spec.stages.1.drain": {"timeoutSeconds": 200}}
    head = rendered(edited(two, edits))["Deployment", "two-head"]
    assert head["spec"]["progressDeadlineSeconds"] == 100 + 200 + 30 + 600 + 120


def test_the_queue_of_a_pipeline_reaches_its_deployments_and_nothing_else(digits: dict[str, Any]) -> None:
    queue = {"kueue.x-k8s.io/queue-name": "team-a", "kueue.x-k8s.io/priority-class": "low"}
    queued = rendered(edited(digits, {"metadata.labels": {**queue, "team": "a"}}))
    plain = rendered(digits)
    for reference, child in queued.items():
        expected = queue if reference[0] == "Deployment" else {}
        assert child["metadata"]["labels"] == {**plain[reference]["metadata"]["labels"], **expected}
        assert child.get("spec") == plain[reference].get("spec")
