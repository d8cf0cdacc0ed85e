"""A model in an OCI image, packaged as the docs say: mounted, served, changed, and missing."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hack.cluster.images import build_archive
from hack.cluster.instance import ROOT as INSTANCES

from omni_worker.config.model_source import BUILTIN_MODELS
from tests.kubernetes.apiserver.operators import EXAMPLE, ROOT, Kubectl, eventually
from tests.kubernetes.conftest import skip_before
from tests.kubernetes.pods.conftest import tool
from tests.kubernetes.pods.traffic import Pipeline, Wish, forwarded

pytestmark = pytest.mark.pods

PATIENCE = 600
SINCE = 36, "image volumes with the containerd that its node has here"
NAME = "localhost/omnipipeline/digits-model"


@pytest.fixture(scope="module", autouse=True)
def the_node_has_image_volumes(kubeconfig: str) -> None:
    """Before any other fixture of the module."""
    skip_before(kubeconfig, *SINCE)


def documented_dockerfile(folder: str) -> str:
    """The Dockerfile of docs/own-pipeline.md, for a folder."""
    (dockerfile,) = re.findall(r"```dockerfile\n(.*?)```", (ROOT / "docs/own-pipeline.md").read_text(), re.DOTALL)
    return str(dockerfile).replace("my-pipeline", folder)


@pytest.fixture(scope="module")
def images(kubeconfig: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The sources of two images on the node, whose models differ in their default of steps."""
    instance = Path(kubeconfig).parent
    if instance.parent != INSTANCES:
        pytest.skip("images can be loaded only into a cluster of hack/cluster")
    folder = tmp_path_factory.mktemp("images")
    model = folder / "digits"
    shutil.copytree(BUILTIN_MODELS / "digits", model)
    sources = []
    for tag, steps in (("1", 4), ("2", 5)):
        defaults = json.loads((model / "omni.json").read_text())
        defaults["defaults"]["num_inference_steps"] = steps
        (model / "omni.json").write_text(json.dumps(defaults))
        archive = folder / f"{tag}.tar"
        build_archive(documented_dockerfile("digits"), folder, f"{NAME}:{tag}", archive)
        tool("hack/cluster", "load", f"--name={instance.name}", str(archive))
        sources.append(f"oci://{NAME}:{tag}")
        archive.unlink()
    return sources[0], sources[1]


def change(kubectl: Kubectl, source: str) -> None:
    kubectl("patch", "op/digits", "--type=merge", f"--patch={json.dumps({'spec': {'model': {'source': source}}})}")


def wait_until_ready(kubectl: Kubectl) -> None:
    generation = kubectl.get("op", "digits")["metadata"]["generation"]

    def is_so() -> bool:
        condition = kubectl.condition("Ready")
        return condition.get("status") == "True" and condition["observedGeneration"] >= generation

    eventually(is_so, "a pipeline that is Ready", PATIENCE)


def default_steps(kubectl: Kubectl) -> int:
    """What the model's own file says, as the API tells."""
    with forwarded(kubectl, "service/digits", 8000) as url:
        assert Pipeline(url).fulfils(Wish(4, "blue", seed=3))
        described = kubectl("exec", "deployment/digits-painter", "--", "cat", "/model/omni.json")
    return int(json.loads(described)["defaults"]["num_inference_steps"])


def test_a_model_is_served_from_an_image_and_nothing_is_downloaded(
    kubectl: Kubectl, operator: str, images: tuple[str, str]
) -> None:
    manifest: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"] |= {"replicas": 1, "model": {"source": images[0], "pullPolicy": "IfNotPresent"}}
    kubectl.apply(manifest)
    wait_until_ready(kubectl)
    assert default_steps(kubectl) == 4
    (head,) = kubectl.items("pods", "omnipipeline.dev/role=head")
    assert not [volume for volume in head["spec"]["volumes"] if volume.get("image")]


def test_another_image_is_rolled_out_to_the_head_and_the_stage(kubectl: Kubectl, images: tuple[str, str]) -> None:
    change(kubectl, images[1])
    wait_until_ready(kubectl)
    assert default_steps(kubectl) == 5


def test_a_stage_may_have_an_image_of_its_own(kubectl: Kubectl, images: tuple[str, str]) -> None:
    manifest: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"]["replicas"] = 1
    manifest["spec"]["stages"][0]["model"] = {"source": images[0]}
    kubectl.apply(manifest)
    wait_until_ready(kubectl)
    assert default_steps(kubectl) == 4


def test_nodes_get_the_images_before_pods_need_them_and_the_status_shows_it(
    kubectl: Kubectl, images: tuple[str, str]
) -> None:
    patch = {"spec": {"image": {"prefetch": True}}}
    kubectl("patch", "op/digits", "--type=merge", f"--patch={json.dumps(patch)}")
    eventually(lambda: kubectl.condition("NodesWarm")["status"] == "True", "nodes with the images", PATIENCE)
    assert kubectl.condition("NodesWarm")["message"] == "nodes with the images: painter 1 of 1"
    (pod,) = kubectl.items("pods", "omnipipeline.dev/role=image-pull")
    assert kubectl("exec", pod["metadata"]["name"], "--", "ls", "/model/model_index.json")
    wait_until_ready(kubectl)


def test_an_image_that_no_registry_has_is_named(kubectl: Kubectl, images: tuple[str, str]) -> None:
    stages = kubectl.get("op", "digits")["spec"]["stages"]
    stages[0]["model"] = {"source": f"oci://{NAME}:nowhere"}
    kubectl("patch", "op/digits", "--type=merge", f"--patch={json.dumps({'spec': {'stages': stages}})}")
    eventually(lambda: kubectl.condition("Ready")["reason"] == "ImagePullBackOff", "a status that says so", PATIENCE)
    assert f"the image {NAME}:nowhere cannot be pulled" in kubectl.condition("Ready")["message"]
