"""The counts of stages that are scaled: taken from the cluster, moved by the load, held where it is not known."""

from collections.abc import Mapping
from typing import Any

import pytest

from omni_operator.controller.heads.autoscaler import Counts, Scaler, policy_of
from omni_operator.controller.heads.head_api import UnknownLoad
from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.autoscale import StageLoad
from omni_operator.planning.manifests import children
from omni_operator.planning.plan import make_plan, reference
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.edits import edited

KEY = ("gallery", "digits")
BOUNDS = {"minReplicas": 1, "maxReplicas": 8, "scaleDownStabilizationSeconds": 60}


class Head:
    """A head that tells what a test says, at a time that it says."""

    def __init__(self) -> None:
        self.requests: int | None = 0
        self.now = 0.0
        self.scaler = Scaler(self.read, lambda: self.now)

    def read(self, pipeline: OmniPipeline) -> Mapping[str, StageLoad]:
        if self.requests is None:
            raise UnknownLoad("the head does not answer")
        return {"painter": StageLoad(self.requests, self.requests)}

    def poll(self, seconds: float) -> bool:
        """Polls every three seconds; whether there was something to reconcile."""
        changes = []
        for _ in range(round(seconds / 3)):
            self.now += 3
            changes.append(self.scaler.poll(KEY))
        return any(changes)


def scaled(digits: dict[str, Any], bounds: Any = BOUNDS, **more: Any) -> OmniPipeline:
    return parse(edited(digits, {"spec.stages.0.autoscaling": bounds, **more}))


def test_a_count_begins_with_what_is_found_and_follows_the_load(digits: dict[str, Any]) -> None:
    head, pipeline = Head(), scaled(digits)
    assert head.scaler.counts(pipeline, {"painter": 3}) == Counts({"painter": 3})
    head.requests = 16
    assert head.poll(3)
    assert head.scaler.counts(pipeline, {"painter": 3}).pods == {"painter": 4}
    assert not head.poll(30)
    head.requests = 0
    assert not head.poll(54)
    assert head.poll(30)
    assert head.scaler.counts(pipeline, {"painter": 4}).pods == {"painter": 1}


def test_a_new_stage_begins_with_the_spec_within_the_bounds(digits: dict[str, Any]) -> None:
    pipeline = scaled(digits, **{"spec.replicas": 20})
    assert Head().scaler.counts(pipeline, {}).pods == {"painter": 8}


def test_bounds_that_change_hold_at_the_next_reconciliation(digits: dict[str, Any]) -> None:
    head = Head()
    head.scaler.counts(scaled(digits), {"painter": 6})
    fewer = scaled(digits, BOUNDS | {"maxReplicas": 2})
    assert head.scaler.counts(fewer, {"painter": 6}).pods == {"painter": 2}


def test_an_unknown_load_is_told_after_a_while_and_again_when_it_is_known(digits: dict[str, Any]) -> None:
    head, pipeline = Head(), scaled(digits)
    head.scaler.counts(pipeline, {"painter": 3})
    head.requests = None
    assert not head.poll(12)
    assert head.scaler.counts(pipeline, {}).unknown is None
    assert head.poll(6)
    assert head.scaler.counts(pipeline, {}) == Counts({"painter": 3}, "the head does not answer")
    assert not head.poll(600)
    head.requests = 12
    assert head.poll(3)
    assert head.scaler.counts(pipeline, {}) == Counts({"painter": 3})


def test_another_pipeline_of_the_same_name_begins_anew(digits: dict[str, Any]) -> None:
    head = Head()
    head.scaler.counts(scaled(digits), {"painter": 5})
    other = scaled(digits, **{"metadata.uid": "another"})
    assert head.scaler.counts(other, {"painter": 2}).pods == {"painter": 2}


def test_a_pipeline_that_is_no_longer_scaled_is_not_asked(digits: dict[str, Any]) -> None:
    head = Head()
    head.scaler.counts(scaled(digits), {})
    assert head.scaler.keys == [KEY]
    assert head.scaler.counts(parse(digits), {"painter": 5}) == Counts()
    assert head.scaler.keys == []
    assert not head.poll(3)


def test_the_target_counts_replicas_and_not_pods(digits: dict[str, Any]) -> None:
    pipeline = scaled(digits, **{"spec.stages.0.localReplicas": 2, "spec.head.localReplicas": 3})
    policy = policy_of(pipeline, pipeline.spec.stages[0])
    assert (policy.requests_per_pod, policy.requests_in_head) == (8, 12)


# ---- what others scale


def deployment_of(pipeline: OmniPipeline, pods: int) -> dict[str, Any]:
    wanted = children(pipeline, cluster_topology(pipeline, {"painter": pods}), "worker:test", "secret")
    return dict(next(child for child in wanted if reference(child) == ("Deployment", "digits-painter")))


def test_the_count_of_a_stage_that_others_scale_is_in_no_object_of_ours(digits: dict[str, Any]) -> None:
    assert "replicas" not in deployment_of(scaled(digits, "external"), 5)["spec"]
    assert deployment_of(scaled(digits), 5)["spec"]["replicas"] == 5


def test_what_others_scaled_it_to_is_what_is_wanted(digits: dict[str, Any]) -> None:
    head, pipeline = Head(), scaled(digits, "external")
    assert head.scaler.counts(pipeline, {"painter": 5}).pods == {"painter": 5}
    assert head.scaler.keys == []


# name: (who has set the count, what the spec says now, whether the count is left in other hands first)
HANDOVERS: dict[str, tuple[str, Any, bool]] = {
    "we had set it, and others are to": ("omni-operator", "external", True),
    "others have set it already": ("kube-controller-manager", "external", False),
    "it stays with us": ("omni-operator", BOUNDS, False),
}


@pytest.mark.parametrize("row", HANDOVERS)
def test_a_count_that_we_let_go_of_stays_as_it_is(digits: dict[str, Any], row: str) -> None:
    manager, bounds, expected = HANDOVERS[row]
    live = deployment_of(parse(edited(digits, {"spec.stages.0.replicas": 5})), 5)
    fields = {"manager": manager, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    live = edited(live, {"metadata.managedFields": [fields]})
    plan = make_plan([deployment_of(scaled(digits, bounds), 5)], [live], "uid-of-digits", "digits")
    assert list(plan.handed_over) == ([reference(live)] if expected else [])


# ---- stages that may be at zero


def test_the_head_is_told_how_long_requests_wait_for_a_stage_that_may_be_at_zero(digits: dict[str, Any]) -> None:
    idle = cluster_topology(scaled(digits, BOUNDS | {"minReplicas": 0}), {"painter": 0})
    assert '"wake_seconds": 600' in idle.stage_config
    assert idle.stages_without_replicas == ()
    assert "wake_seconds" not in cluster_topology(scaled(digits)).stage_config


# name: (what is written, the field, part of what is said about it)
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a count and bounds": (
        {"spec.stages.0.autoscaling": BOUNDS, "spec.stages.0.replicas": 3},
        "spec.stages[0].replicas",
        "remove one of the two",
    ),
    "fewest above most": (
        {"spec.stages.0.autoscaling": BOUNDS | {"minReplicas": 9}},
        "spec.stages[0].autoscaling.minReplicas",
        "is 9, and maxReplicas is 8",
    ),
    "a word that is not external": ({"spec.stages.0.autoscaling": "auto"}, "spec.stages[0].autoscaling", "'external'"),
    "no most": ({"spec.stages.0.autoscaling": {"minReplicas": 1}}, "spec.stages[0].autoscaling.maxReplicas", "missing"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_cannot_be_meant_is_refused_by_its_field(digits: dict[str, Any], row: str) -> None:
    edits, path, words = REFUSED[row]
    with pytest.raises(InvalidSpec) as refused:
        parse(edited(digits, edits))
    assert path in [problem.path for problem in refused.value.problems]
    assert words in str(refused.value)
