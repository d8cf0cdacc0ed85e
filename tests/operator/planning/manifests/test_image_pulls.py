"""The DaemonSets that pull images: where they run, what they pull, and how little they ask for."""

from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.parsing import parse
from omni_operator.planning.observed import is_pod_of
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.edits import edited
from tests.operator.rendered import IMAGE, pod, rendered

ASKED = {"spec.image.prefetch": True}
GPU_NODES = {
    "spec.stages.0.accelerator.nodeSelector": {"gpu": "h100"},
    "spec.stages.0.template": {
        "metadata": {"annotations": {"sidecar.istio.io/inject": "false"}, "labels": {"team": "a"}},
        "spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]},
    },
}


def pulls(manifest: dict[str, Any]) -> dict[str, Object]:
    return {name: child for (kind, name), child in rendered(manifest).items() if kind == "DaemonSet"}


def template_of(manifest: dict[str, Any]) -> dict[str, Any]:
    (one,) = pulls(manifest).values()
    template: dict[str, Any] = one["spec"]["template"]
    return template


def test_there_is_one_for_each_stage_if_it_is_asked_for(two: dict[str, Any]) -> None:
    assert set(pulls(edited(two, ASKED))) == {"two-thinker-images", "two-painter-images"}
    assert not pulls(two)
    assert not pulls(edited(two, {**ASKED, "spec.suspend": True}))


def test_a_stage_that_may_be_at_zero_keeps_its_nodes_warm(digits: dict[str, Any]) -> None:
    assert pulls(edited(digits, {**ASKED, "spec.replicas": 0}))


def test_its_pods_run_where_the_stages_pods_may_run(digits: dict[str, Any]) -> None:
    template = template_of(edited(digits, ASKED | GPU_NODES))
    assert template["spec"]["nodeSelector"] == {"gpu": "h100"}
    assert template["spec"]["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert template["metadata"]["annotations"] == {"sidecar.istio.io/inject": "false"}
    assert template["metadata"]["labels"]["team"] == "a"
    assert template["metadata"]["labels"]["omnipipeline.dev/role"] == "image-pull"


def test_it_pulls_the_images_that_the_stage_needs_with_the_same_credentials(digits: dict[str, Any]) -> None:
    model = {"source": "oci://registry/sdxl:1", "pullSecrets": ["models"], "pullPolicy": "Always"}
    manifest = edited(digits, ASKED | {"spec.model": model, "spec.image.pullSecrets": ["workers"]})
    spec, serving = template_of(manifest)["spec"], pod(manifest)["spec"]
    (container,) = spec["containers"]
    assert container["image"] == serving["containers"][0]["image"] == IMAGE
    assert spec["imagePullSecrets"] == serving["imagePullSecrets"]
    (volume,) = spec["volumes"]
    assert volume in serving["volumes"]
    assert container["volumeMounts"] == [{"name": "model-image", "mountPath": "/model", "readOnly": True}]


def test_it_pulls_the_image_of_a_users_template(digits: dict[str, Any]) -> None:
    own = {"spec": {"containers": [{"name": "omni", "image": "registry/own:1"}]}}
    (container,) = template_of(edited(digits, ASKED | {"spec.stages.0.template": own}))["spec"]["containers"]
    assert container["image"] == "registry/own:1"


def test_its_pods_do_nothing_and_ask_for_almost_nothing(digits: dict[str, Any]) -> None:
    spec = template_of(edited(digits, ASKED))["spec"]
    (container,) = spec["containers"]
    assert container["command"] == ["sleep", "infinity"]
    assert not {"args", "env", "ports", "livenessProbe"} & container.keys()
    assert set(container["resources"]["requests"]) == {"cpu", "memory", "ephemeral-storage"}, "and no device"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert "volumes" not in spec


def test_its_pods_are_no_pods_of_the_head_or_a_stage(digits: dict[str, Any]) -> None:
    template = template_of(edited(digits, ASKED))
    topology = cluster_topology(parse(digits))
    assert not [process for process in topology.processes if is_pod_of(template, process)]
