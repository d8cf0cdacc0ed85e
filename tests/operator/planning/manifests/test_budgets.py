"""What pods ask of their nodes by default, and how much they may keep there."""

from typing import Any

import pytest

from omni_operator.crd.quantities import integer_quantity
from tests.operator.edits import edited
from tests.operator.rendered import container, pod, rendered

PREFETCHED = {"spec.model": {"source": "hf://a/b", "cache": {"size": "1Gi", "prefetch": True}}}
EVICTION = "cluster-autoscaler.kubernetes.io/safe-to-evict"


def templates(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The templates of all pods, by the name of their Deployment or Job."""
    objects = rendered(manifest)
    return {name: one["spec"]["template"] for (kind, name), one in objects.items() if kind in ("Deployment", "Job")}


def test_every_pod_asks_for_cpu_memory_and_disk_and_every_scratch_volume_has_a_limit(digits: dict[str, Any]) -> None:
    found = templates(edited(digits, PREFETCHED))
    assert len(found) == 3
    for template in found.values():
        requests = template["spec"]["containers"][0]["resources"]["requests"]
        assert {"cpu", "memory", "ephemeral-storage"} <= requests.keys()
        scratch = [volume["emptyDir"] for volume in template["spec"]["volumes"] if "emptyDir" in volume]
        assert scratch
        assert all(integer_quantity(volume["sizeLimit"]) for volume in scratch)


def test_a_user_s_requests_and_limits_replace_the_defaults_of_the_same_resource(digits: dict[str, Any]) -> None:
    plain = container(digits, "digits-head")["resources"]
    assert set(plain["limits"]) == {"memory"}
    more = edited(digits, {"spec.head.resources": {"requests": {"memory": "64Gi"}}})
    assert container(more, "digits-head")["resources"] == {"requests": {**plain["requests"], "memory": "64Gi"}}
    less = {"spec": {"containers": [{"name": "omni", "resources": {"limits": {"memory": "64Mi"}}}]}}
    by_template = container(edited(digits, {"spec.stages.0.template": less}))["resources"]
    assert "memory" not in by_template["requests"], "Kubernetes takes the limit for it"
    assert by_template["limits"]["memory"] == "64Mi"


def test_a_head_has_room_for_the_bodies_that_it_may_hold(digits: dict[str, Any]) -> None:
    def limit(manifest: dict[str, Any]) -> int:
        return integer_quantity(container(manifest, "digits-head")["resources"]["limits"]["memory"])

    larger = edited(digits, {"spec.api.limits": {"totalBodySize": "8Gi"}})
    assert limit(larger) > limit(digits) + 2 * 7 * 2**30
    assert (
        "limits"
        not in container(
            edited(digits, {"spec.head.localReplicas": 1, "spec.stages.0.accelerator": None}), "digits-head"
        )["resources"]
    ), "a model may be of any size"


# name: (edits, the Deployment, at least so many bytes in /tmp)
SCRATCH: dict[str, tuple[dict[str, Any], str, int]] = {
    "videos of the default size": ({}, "digits-head", 10 * 2**30),
    "more videos": ({"spec.videos.maxSize": "500Gi"}, "digits-head", 500 * 2**30),
    "a model that is downloaded": ({"spec.model": {"source": "hf://a/b"}}, "digits-painter", 500 * 2**30),
}


@pytest.mark.parametrize("row", SCRATCH)
def test_tmp_has_room_for_what_is_kept_there(digits: dict[str, Any], row: str) -> None:
    edits, name, least = SCRATCH[row]
    volumes = {volume["name"]: volume for volume in pod(edited(digits, edits), name)["spec"]["volumes"]}
    assert integer_quantity(volumes["tmp"]["emptyDir"]["sizeLimit"]) > least


def test_autoscalers_of_nodes_may_move_replicas_and_no_head_with_videos(digits: dict[str, Any]) -> None:
    stored = edited(digits, {"spec.videos.storage": {"size": "1Gi"}})
    local = f"{EVICTION}-local-volumes"
    assert pod(digits)["metadata"]["annotations"][local] == "tmp"
    assert pod(digits, "digits-head")["metadata"]["annotations"][EVICTION] == "false"
    assert pod(stored, "digits-head")["metadata"]["annotations"][local] == "tmp"
    movable = edited(digits, {"spec.head.podAnnotations": {EVICTION: "true"}})
    assert pod(movable, "digits-head")["metadata"]["annotations"][EVICTION] == "true"


def test_a_head_leaves_a_node_that_does_not_answer_soon(digits: dict[str, Any]) -> None:
    tolerations = {one["key"]: one for one in pod(digits, "digits-head")["spec"]["tolerations"]}
    for key in ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"):
        assert tolerations[key]["tolerationSeconds"] < 300
    assert all("node.kubernetes.io" not in one["key"] for one in pod(digits)["spec"]["tolerations"])


def test_a_head_may_use_the_memory_of_its_result_cache(digits: dict[str, Any]) -> None:
    def memory(changes: dict[str, Any]) -> int:
        limit: str = container(edited(digits, changes), "digits-head")["resources"]["limits"]["memory"]
        return integer_quantity(limit)

    assert memory({"spec.api": {"resultCacheSize": "5Gi"}}) == memory({}) + 5 * 2**30
