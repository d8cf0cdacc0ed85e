"""What a process needs: devices, claims and time."""

from typing import Any

from omni_operator.crd.parsing import parse
from omni_operator.planning.topology.cluster import cluster_topology
from omni_operator.planning.topology.model_sources import ModelImage
from tests.operator.edits import edited

DIGEST = f"sha256:{'0af' * 21}0"


def test_devices_are_those_of_all_replicas_in_the_process(digits: dict[str, Any]) -> None:
    manifest = edited(
        digits,
        {
            "spec.head.localReplicas": 1,
            "spec.stages.0.localReplicas": 2,
            "spec.stages.0.accelerator.count": 4,
            "spec.stages.0.parallelism.cfg": 4,
        },
    )
    topology = cluster_topology(parse(manifest))
    assert topology.head.devices == 4
    assert topology.replicas[0].devices == 8
    assert topology.replicas[0].data_ports == (9100, 9101)


def test_each_pod_has_the_claims_it_reads_and_the_head_has_all(two: dict[str, Any]) -> None:
    claims = {
        "spec.model.source": "pvc://weights/painter",
        "spec.stages.0.model": {"source": "pvc://language/qwen"},
    }
    topology = cluster_topology(parse(edited(two, claims)))
    thinker, painter = topology.replicas
    assert (thinker.claims, thinker.arguments[1]) == (("language",), "/models/language/qwen")
    assert (painter.claims, painter.arguments[1]) == (("weights",), "/models/weights/painter")
    assert topology.head.claims == ("weights", "language")
    assert '"model": "/models/language/qwen"' in topology.stage_config


def test_each_process_has_the_image_of_the_model_that_it_loads(two: dict[str, Any]) -> None:
    images = {
        "spec.model": {"source": f"oci://registry/painter@{DIGEST}", "pullPolicy": "Always", "pullSecrets": ["mine"]},
        "spec.stages.0.model": {"source": "oci://registry/thinker:2"},
        "spec.head": {"stage": "thinker"},
    }
    topology = cluster_topology(parse(edited(two, images)))
    thinker, painter = topology.replicas
    assert (thinker.image, thinker.arguments[1]) == (ModelImage("registry/thinker:2"), "oci://registry/thinker:2")
    assert painter.image == ModelImage(f"registry/painter@{DIGEST}", "Always", ("mine",))
    assert topology.head.image is None, "its node needs no gigabytes of weights to compare digests"
    assert topology.head.arguments[1] == f"oci://registry/painter@{DIGEST}"
    assert '"model": "oci://registry/thinker:2"' in topology.stage_config
    with_replicas = cluster_topology(parse(edited(two, images | {"spec.head.localReplicas": 1})))
    assert with_replicas.head.image == ModelImage("registry/thinker:2")


def test_the_head_has_time_for_requests_in_every_stage(two: dict[str, Any]) -> None:
    slow = {"spec.stages.0.drain": {"timeoutSeconds": 20}, "spec.stages.1.drain": {"timeoutSeconds": 300}}
    slow |= {"spec.stages.0.startupTimeoutSeconds": 30, "spec.stages.1.startupTimeoutSeconds": 1800}
    head = cluster_topology(parse(edited(two, slow))).head
    assert (head.drain_seconds, head.startup_seconds) == (320, 1800)
