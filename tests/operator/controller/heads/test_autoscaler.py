"""Pod counts of autoscaled stages: they start with the cluster's, follow the load, and stay while it is unknown."""

from collections.abc import Mapping
from typing import Any

import pytest

from omni_operator.controller.heads.autoscaler import Autoscaler, PodCounts, policy_of
from omni_operator.controller.heads.head_api import HeadError
from omni_operator.crd.parsing import parse
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.autoscale import StageLoad
from omni_operator.planning.manifests import children
from omni_operator.planning.manifests.pod import Surroundings
from omni_operator.planning.plan import make_plan, reference
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.edits import edited

KEY = ("gallery", "digits")
EXTERNAL = {"mode": "external"}
BOUNDS = {"minReplicas": 1, "maxReplicas": 8, "scaleDownStabilizationSeconds": 60}


class Head:
    """A head whose load and clock a test sets. It does not answer while `requests` is None."""

    def __init__(self) -> None:
        self.requests: int | None = 0
        self.now = 0.0
        self.autoscaler = Autoscaler(self.read, lambda: self.now)

    def read(self, pipeline: OmniPipeline) -> Mapping[str, StageLoad]:
        if self.requests is None:
            raise HeadError("the head does not answer")
        return {"painter": StageLoad(self.requests, self.requests)}

    def counts(self, pipeline: OmniPipeline, current_pods: Mapping[str, int]) -> PodCounts:
        """What a pass does."""
        counts = self.autoscaler.counts(pipeline, current_pods)
        self.autoscaler.follow(pipeline, counts)
        return counts

    def poll(self, seconds: float) -> bool:
        """Poll every three seconds of the clock. Returns whether the pipeline needed another pass."""
        changes = []
        for _ in range(round(seconds / 3)):
            self.now += 3
            changes.append(self.autoscaler.poll(KEY))
        return any(changes)


def scaled(digits: dict[str, Any], bounds: Any = BOUNDS, **more: Any) -> OmniPipeline:
    return parse(edited(digits, {"spec.stages.0.autoscaling": bounds, **more}))


def test_a_count_starts_with_the_clusters_and_follows_the_load(digits: dict[str, Any]) -> None:
    head, pipeline = Head(), scaled(digits)
    assert head.counts(pipeline, {"painter": 3}) == PodCounts({"painter": 3})
    head.requests = 16
    assert head.poll(3)
    assert head.counts(pipeline, {"painter": 3}).pods == {"painter": 4}
    assert not head.poll(30)
    head.requests = 0
    assert not head.poll(54)
    assert head.poll(30)
    assert head.counts(pipeline, {"painter": 4}).pods == {"painter": 1}


def test_a_new_stage_starts_with_the_specs_count_within_the_bounds(digits: dict[str, Any]) -> None:
    pipeline = scaled(digits, **{"spec.replicas": 20})
    assert Head().counts(pipeline, {}).pods == {"painter": 8}


def test_new_bounds_apply_at_the_next_pass(digits: dict[str, Any]) -> None:
    head = Head()
    head.counts(scaled(digits), {"painter": 6})
    fewer = scaled(digits, BOUNDS | {"maxReplicas": 2})
    assert head.counts(fewer, {"painter": 6}).pods == {"painter": 2}


def test_an_unknown_load_is_reported_after_a_while_until_it_is_known_again(digits: dict[str, Any]) -> None:
    head, pipeline = Head(), scaled(digits)
    head.counts(pipeline, {"painter": 3})
    head.requests = None
    assert not head.poll(12)
    assert head.counts(pipeline, {}).unknown is None
    assert head.poll(6)
    assert head.counts(pipeline, {}) == PodCounts({"painter": 3}, "the head does not answer")
    assert not head.poll(600)
    head.requests = 12
    assert head.poll(3)
    assert head.counts(pipeline, {}) == PodCounts({"painter": 3})


def test_another_pipeline_of_the_same_name_starts_over(digits: dict[str, Any]) -> None:
    head = Head()
    head.counts(scaled(digits), {"painter": 5})
    other = scaled(digits, **{"metadata.uid": "another"})
    assert head.counts(other, {"painter": 2}).pods == {"painter": 2}


def test_a_pipeline_that_is_no_longer_scaled_is_not_polled(digits: dict[str, Any]) -> None:
    head = Head()
    head.counts(scaled(digits), {})
    assert head.autoscaler.keys == [KEY]
    assert head.counts(parse(digits), {"painter": 5}) == PodCounts()
    assert head.autoscaler.keys == []
    assert not head.poll(3)


def test_the_target_counts_replicas_and_not_pods(digits: dict[str, Any]) -> None:
    pipeline = scaled(digits, **{"spec.stages.0.localReplicas": 2, "spec.head.localReplicas": 3})
    policy = policy_of(pipeline, pipeline.spec.stages[0])
    assert (policy.requests_per_pod, policy.requests_in_head) == (8, 12)


# ---- stages that something else scales


def deployment_of(pipeline: OmniPipeline, pods: int) -> dict[str, Any]:
    wanted = children(pipeline, cluster_topology(pipeline, {"painter": pods}), Surroundings("worker:test"), "secret")
    return dict(next(child for child in wanted if reference(child) == ("Deployment", "digits-painter")))


def test_a_deployment_that_something_else_scales_has_no_count_from_us(digits: dict[str, Any]) -> None:
    assert "replicas" not in deployment_of(scaled(digits, EXTERNAL), 5)["spec"]
    assert deployment_of(scaled(digits), 5)["spec"]["replicas"] == 5


def test_a_count_from_something_else_is_the_desired_one(digits: dict[str, Any]) -> None:
    head, pipeline = Head(), scaled(digits, EXTERNAL)
    assert head.counts(pipeline, {"painter": 5}).pods == {"painter": 5}
    assert head.autoscaler.keys == []


# name: (the manager that set the count, the spec's autoscaling now, whether the count is handed over first)
HANDOVERS: dict[str, tuple[str, Any, bool]] = {
    "we set it, and something else takes over": ("omni-operator", EXTERNAL, True),
    "something else set it already": ("kube-controller-manager", EXTERNAL, False),
    "we keep it": ("omni-operator", BOUNDS, False),
}


@pytest.mark.parametrize("row", HANDOVERS)
def test_a_count_that_we_hand_over_stays_the_same(digits: dict[str, Any], row: str) -> None:
    manager, bounds, expected = HANDOVERS[row]
    live = deployment_of(parse(edited(digits, {"spec.stages.0.replicas": 5})), 5)
    fields = {"manager": manager, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    live = edited(live, {"metadata.managedFields": [fields]})
    plan = make_plan([deployment_of(scaled(digits, bounds), 5)], [live], "uid-of-digits", "digits")
    assert list(plan.handed_over) == ([reference(live)] if expected else [])


# ---- stages that may scale to zero


def test_the_head_is_told_how_long_requests_wait_for_a_stage_that_may_be_at_zero(digits: dict[str, Any]) -> None:
    idle = cluster_topology(scaled(digits, BOUNDS | {"minReplicas": 0}), {"painter": 0})
    assert '"wake_seconds": 600' in idle.stage_config
    assert idle.stages_without_replicas == ()
    external = cluster_topology(scaled(digits, EXTERNAL), {"painter": 0})
    assert (external.stage_config, external.stages_without_replicas) == (idle.stage_config, ())
    assert "wake_seconds" not in cluster_topology(scaled(digits)).stage_config
