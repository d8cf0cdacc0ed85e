"""What a plan contains: nothing if all is as desired, and otherwise as little as possible."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_operator.crd.objects import Object
from omni_operator.crd.parsing import parse
from omni_operator.planning.drift import contains, same_quantity
from omni_operator.planning.manifests import children
from omni_operator.planning.manifests.pod import Surroundings
from omni_operator.planning.plan import make_plan, reference
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.edits import REMOVED, edited
from tests.operator.managed_fields import applied, changed_by_others

UID = "uid-of-digits"


def desired(manifest: dict[str, Any]) -> list[Object]:
    pipeline = parse(manifest)
    return list(children(pipeline, cluster_topology(pipeline), Surroundings("worker:test"), "secret"))


def as_server_returns(child: Object) -> dict[str, Any]:
    """A live object: the desired one, and what a server adds."""
    live = edited(
        applied(child), {"metadata.resourceVersion": "7", "metadata.uid": f"uid-of-{child['metadata']['name']}"}
    )
    if live["kind"] == "Deployment":
        live["status"] = {"replicas": 1}
        live["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
        live["spec"]["template"]["spec"]["containers"][0]["terminationMessagePath"] = "/dev/termination-log"
    if live["kind"] == "Service":
        live["spec"]["sessionAffinity"] = "None"
    return live


def names(objects: tuple[Object, ...]) -> list[str]:
    return [child["metadata"]["name"] for child in objects]


def test_everything_is_applied_where_nothing_is(digits: dict[str, Any]) -> None:
    plan = make_plan(desired(digits), [], UID, "digits")
    assert list(plan.apply) == desired(digits)
    assert not plan.adopted
    assert not plan.delete


def test_a_settled_pipeline_plans_nothing(digits: dict[str, Any]) -> None:
    plan = make_plan(desired(digits), [as_server_returns(child) for child in desired(digits)], UID, "digits")
    assert (plan.apply, plan.delete, plan.conflicts) == ((), (), ())


def test_scaling_applies_one_deployment(digits: dict[str, Any]) -> None:
    live = [as_server_returns(child) for child in desired(digits)]
    plan = make_plan(desired(edited(digits, {"spec.replicas": 5})), live, UID, "digits")
    assert names(plan.apply) == ["digits-painter"]
    assert ("Deployment", "digits-painter") in plan.adopted


DRIFT: dict[str, tuple[str, Any]] = {
    "a count that someone changed": ("spec.replicas", 9),
    "an image that someone changed": ("spec.template.spec.containers.0.image", "other"),
    "a probe that someone removed": ("spec.template.spec.containers.0.livenessProbe", REMOVED),
    "an argument that someone removed": ("spec.template.spec.containers.0.args.2", REMOVED),
    "an argument that someone added": ("spec.template.spec.containers.0.args.99", "--more"),
    "a label that someone removed": ("metadata.labels", {}),
    "an annotation of an older spec": ("metadata.annotations", {"omnipipeline.dev/spec-hash": "old"}),
}


@pytest.mark.parametrize("row", DRIFT)
def test_drift_is_undone(digits: dict[str, Any], row: str) -> None:
    live = [as_server_returns(child) for child in desired(digits)]
    live[-1] = changed_by_others(live[-1], *DRIFT[row])
    assert names(make_plan(desired(digits), live, UID, "digits").apply) == ["digits-painter"]


CONTAINER = "spec.template.spec.containers.0"
WITH_REQUESTS = {
    "spec.stages.0.template": {
        "spec": {
            "containers": [
                {
                    "name": "omni",
                    "resources": {"requests": {"cpu": "250m"}},
                    "readinessProbe": {"failureThreshold": 0},
                }
            ]
        }
    }
}
# What admission and the server make of a field while they store what this operator applies.
REWRITTEN: dict[str, dict[str, Any]] = {
    "a digest for the image": {f"{CONTAINER}.image": "worker:test@sha256:" + "a" * 64},
    "a mirror for the image": {f"{CONTAINER}.image": "mirror.example/worker:test"},
    "a higher request": {f"{CONTAINER}.resources.requests": {"cpu": "500m", "ephemeral-storage": "1Gi"}},
    "a request that is taken away": {f"{CONTAINER}.resources.requests": REMOVED},
    "a default for a zero": {f"{CONTAINER}.readinessProbe.failureThreshold": 3},
    "more arguments": {f"{CONTAINER}.args.99": "--more"},
    "another class": {"spec.template.spec.priorityClassName": "of-the-cluster"},
    "a volume that is taken away": {"spec.template.spec.volumes": []},
}


@pytest.mark.parametrize("row", REWRITTEN)
def test_what_the_server_makes_of_our_own_apply_is_no_drift(digits: dict[str, Any], row: str) -> None:
    wanted = desired(edited(digits, WITH_REQUESTS))
    live = [as_server_returns(child) for child in wanted]
    live[-1] = edited(live[-1], REWRITTEN[row])
    assert make_plan(wanted, live, UID, "digits").apply == ()
    changed = changed_by_others(live[-1], f"{CONTAINER}.image", "worker:other")
    assert names(make_plan(wanted, [*live[:-1], changed], UID, "digits").apply) == ["digits-painter"]


def test_the_only_field_of_a_mapping_that_someone_changes_is_changed_back(digits: dict[str, Any]) -> None:
    limited = {"spec.stages.0.resources": {"limits": {"cpu": 2}}, "spec.stages.0.accelerator": REMOVED}
    wanted = desired(edited(digits, limited))
    live = [as_server_returns(child) for child in wanted]
    live[-1] = changed_by_others(live[-1], f"{CONTAINER}.resources.limits.cpu", "4")
    containers = live[-1]["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"]
    assert containers['k:{"name":"omni"}']["f:resources"]["f:limits"] == {}
    assert names(make_plan(wanted, live, UID, "digits").apply) == ["digits-painter"]


def test_an_object_whose_fields_are_all_managed_by_others_is_applied_again(digits: dict[str, Any]) -> None:
    live = [as_server_returns(child) for child in desired(digits)]
    live[-1] = edited(live[-1], {f"{CONTAINER}.image": "other", "metadata.managedFields": []})
    assert names(make_plan(desired(digits), live, UID, "digits").apply) == ["digits-painter"]


def test_what_others_add_is_left_alone(digits: dict[str, Any]) -> None:
    live = [as_server_returns(child) for child in desired(digits)]
    live[-1] = edited(
        live[-1],
        {
            "metadata.annotations.deployment": "1",
            "metadata.labels.team": "a",
            "spec.template.spec.containers.1": {"name": "sidecar", "image": "proxy"},
        },
    )
    assert make_plan(desired(digits), live, UID, "digits").apply == ()


def test_a_stage_that_is_no_longer_wanted_is_deleted(digits: dict[str, Any]) -> None:
    live = [as_server_returns(child) for child in desired(digits)]
    renamed = edited(digits, {"spec.stages.0.name": "brush", "spec.head": {}})
    plan = make_plan(desired(renamed), live, UID, "digits")
    assert names(plan.delete) == ["digits-painter", "digits-painter"], "its Deployment, and its budget"
    assert "digits-brush" in names(plan.apply)


def test_a_stage_that_is_taken_out_is_deleted_and_the_other_is_left_alone(two: dict[str, Any]) -> None:
    live = [as_server_returns(child) for child in desired(two)]
    alone = edited(two, {"spec.stages.0": REMOVED, "spec.stages.0.input": REMOVED})
    plan = make_plan(desired(alone), live, "uid-of-two", "two")
    assert names(plan.delete) == ["two-thinker", "two-thinker"], "its Deployment, and its budget"
    assert [reference(child) for child in plan.apply] == [("ConfigMap", "two"), ("Deployment", "two-head")]


def test_what_is_on_its_way_out_is_not_deleted_again(digits: dict[str, Any]) -> None:
    terminating = as_server_returns(desired(digits)[-1])
    terminating["metadata"] |= {"name": "digits-old", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert make_plan(desired(digits), [terminating], UID, "digits").delete == ()


@pytest.mark.parametrize("owner", [None, "uid-of-an-earlier-digits"])
def test_an_object_of_someone_else_is_a_conflict_and_is_not_touched(digits: dict[str, Any], owner: str | None) -> None:
    foreign = as_server_returns(desired(digits)[3])
    foreign["metadata"]["ownerReferences"] = [{"uid": owner, "controller": True}] if owner else []
    plan = make_plan(desired(digits), [foreign], UID, "digits")
    assert plan.conflicts == (("Service", "digits"),)
    assert ("Service", "digits") not in map(reference, plan.apply)
    assert len(plan.apply) == len(desired(digits)) - 1
    assert plan.delete == ()


def claim(**metadata: Any) -> dict[str, Any]:
    """A retained claim in the cluster."""
    labels = {"omnipipeline.dev/pipeline": "digits"}
    annotations = {"omnipipeline.dev/retained": "true"}
    metadata = {"name": "digits-models", "labels": labels, "annotations": annotations, "uid": "1", **metadata}
    return {"kind": "PersistentVolumeClaim", "metadata": metadata, "spec": {}}


CACHED = {"spec.model": {"source": "hf://a/b", "cache": {"size": "1Gi", "retain": True}}}
# name: (the claim that is found, whether it is used; else it is a conflict)
CLAIMS: dict[str, tuple[dict[str, Any], bool]] = {
    "one that was retained for a pipeline of this name": (claim(), True),
    "one that was retained for another": (claim(labels={"omnipipeline.dev/pipeline": "letters"}), False),
    "someone's own": (claim(annotations={}), False),
    "our own, which is to be retained from now on": (
        claim(annotations={}, ownerReferences=[{"uid": UID, "controller": True}]),
        True,
    ),
}


@pytest.mark.parametrize("row", CLAIMS)
def test_a_claim_of_the_name_is_used_if_it_is_ours(digits: dict[str, Any], row: str) -> None:
    found, is_used = CLAIMS[row]
    plan = make_plan(desired(edited(digits, CACHED)), [found], UID, "digits")
    assert (reference(found) in map(reference, plan.apply)) is is_used
    assert (reference(found) in plan.conflicts) is not is_used


def test_a_retained_claim_that_is_no_longer_wanted_stays(digits: dict[str, Any]) -> None:
    assert make_plan(desired(digits), [claim()], UID, "digits").delete == ()


QUANTITIES = {
    "a thousand thousandths": ("1", "1000m", True),
    "a number and its text": (1, "1", True),
    "binary units": ("1Gi", "1024Mi", True),
    "decimal is not binary": ("1G", "1Gi", False),
    "different amounts": ("1", "2", False),
    "words are not quantities": ("kim", "mik", False),
}


@pytest.mark.parametrize("row", QUANTITIES)
def test_quantities_are_compared_by_amount(row: str) -> None:
    one, other, are_same = QUANTITIES[row]
    assert same_quantity(one, other) is are_same


trees = st.recursive(
    st.booleans() | st.integers(0, 3) | st.sampled_from(["", "a", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=10,
)


@given(trees, st.dictionaries(st.sampled_from("uvw"), trees))
def test_everything_contains_itself_and_still_does_with_more_keys(tree: Any, more: dict[str, Any]) -> None:
    assert contains(tree, tree)
    assert contains({**more, "inner": tree}, {"inner": tree})
