"""The chart on a real node: its own test, the upgrade of the CRD, and pipelines that serve whatever becomes of it.

The tests below are steps: each goes on from where the one before it stopped. What needs no node is in ../apiserver.
"""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.kubernetes.apiserver.operators import EXAMPLE, LABEL, Kubectl, eventually
from tests.kubernetes.pods.conftest import CRD, END_SECONDS, tool
from tests.kubernetes.pods.traffic import Pipeline, Wish, forwarded

pytestmark = pytest.mark.pods

PATIENCE = 600
WISH = Wish(3, "red", seed=11)
FIELD = "priorityClassName"


class Release:
    """The chart in one namespace, for pipelines in all of them."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl = kubectl

    def helm(self, command: str, *arguments: str) -> str:
        named = ("omnipipeline", "--namespace", self.kubectl.namespace)
        return tool("hack/helm.py", command, *named, *arguments, OMNI_KUBECONFIG=self.kubectl.kubeconfig)

    def upgrade(self, *arguments: str) -> str:
        values = ("--install", "--wait", "--values", "hack/cluster/values.yaml")
        return self.helm("upgrade", *values, *arguments)


@pytest.fixture(scope="module")
def release(kubectl: Kubectl) -> Iterator[Release]:
    had_definition = kubectl.exists("crd", CRD)
    release = Release(kubectl)
    release.upgrade("--crds")
    yield release
    kubectl("delete", "omnipipelines", "--all")
    release.helm("uninstall", "--wait")
    eventually(lambda: not kubectl.items("pods", LABEL), "the end of the pipelines' pods", END_SECONDS)
    if not had_definition:
        kubectl("delete", "crd", CRD)


@pytest.fixture(scope="module")
def digits(kubectl: Kubectl, release: Release) -> Kubectl:
    """The example with one painter, on the CPU."""
    manifest: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"]["replicas"] = 1
    del manifest["spec"]["stages"][0]["accelerator"]
    kubectl.apply(manifest)
    return kubectl


def serves(kubectl: Kubectl) -> bool:
    with forwarded(kubectl, "service/digits", 8000) as url:
        return Pipeline(url).fulfils(WISH)


def pods(kubectl: Kubectl) -> set[str]:
    """The pods of the pipeline, each as it was made and no other of its name."""
    return {pod["metadata"]["uid"] for pod in kubectl.items("pods", f"{LABEL},omnipipeline.dev/pipeline=digits")}


def knows_the_field(kubectl: Kubectl) -> bool:
    (version,) = kubectl.get("crd", CRD)["spec"]["versions"]
    return FIELD in version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]


def test_helm_test_has_a_small_pipeline_draw_a_picture_and_leaves_nothing(digits: Kubectl, release: Release) -> None:
    assert "passes its tests" in release.helm("test", "--timeout", "300")
    assert [op["metadata"]["name"] for op in digits.items("omnipipelines")] == ["digits"]
    eventually(lambda: digits.condition("Ready").get("status") == "True", "a pipeline that is Ready", PATIENCE)


def test_an_upgrade_brings_the_definition_up_to_date_where_it_is_asked_to(digits: Kubectl, release: Release) -> None:
    before = pods(digits)
    old = copy.deepcopy(digits.get("crd", CRD))
    del old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][FIELD]
    digits("replace", "-f", "-", stdin=yaml.safe_dump(old))
    release.upgrade("--set", "crdUpgrade=false")
    assert not knows_the_field(digits)
    release.upgrade("--set", "crdUpgrade=true", "--set", "logLevel=debug")
    assert knows_the_field(digits)
    assert not [job for job in digits.items("jobs") if job["metadata"]["name"].endswith("-crd")]
    assert pods(digits) == before
    assert serves(digits)


def test_taken_back_the_release_is_as_it_was_and_the_definition_stays(digits: Kubectl, release: Release) -> None:
    before = pods(digits)
    release.helm("rollback", "--wait")
    (container,) = digits.get("deployment", "omnipipeline")["spec"]["template"]["spec"]["containers"]
    assert "debug" not in container["args"]
    assert knows_the_field(digits)
    digits("scale", "op/digits", "--replicas=2")
    eventually(lambda: len(pods(digits)) == len(before) + 1, "a second painter, by the operator of before", PATIENCE)
    digits("scale", "op/digits", "--replicas=1")
    eventually(lambda: len(pods(digits)) == len(before), "one painter again", PATIENCE)


def test_uninstalled_it_leaves_pipelines_that_serve_and_can_be_deleted(digits: Kubectl, release: Release) -> None:
    before = pods(digits)
    release.helm("uninstall", "--wait")
    assert not digits.items("deployments", "app.kubernetes.io/name=omnipipeline-operator")
    assert digits.get("op", "digits")["status"]["readyReplicas"] == 1
    assert serves(digits)
    assert pods(digits) == before
    digits("delete", "op", "digits")
    eventually(lambda: not digits.children(), "the end of the children, by the garbage collector", PATIENCE)
