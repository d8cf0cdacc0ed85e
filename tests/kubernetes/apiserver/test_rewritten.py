"""An API server that rewrites what the operator applies, as Kyverno and registries' webhooks do.

Every image gets a digest, and every request is raised. Each change is applied once, and arrives.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.kubernetes.apiserver.kubelet import Kubelet, image_of
from tests.kubernetes.apiserver.operators import Kubectl, Operator, eventually
from tests.kubernetes.apiserver.test_rollout import change_image, serving_images
from tests.kubernetes.mutating_policies import SINCE, mutating_policy

pytestmark = [pytest.mark.apiserver, pytest.mark.since(*SINCE)]
DIGEST = "@sha256:" + "0123456789abcdef" * 4
CONTAINER = "object.spec.template.spec.containers[0]"
REWRITE = f"""
{CONTAINER}.image.contains('@') ? [] : [
  JSONPatch{{op: "replace", path: "/spec/template/spec/containers/0/image", value: {CONTAINER}.image + "{DIGEST}"}},
  JSONPatch{{op: "replace", path: "/spec/template/spec/terminationGracePeriodSeconds", value: 77}}
]"""


@pytest.fixture
def policy(kubectl: Kubectl) -> Iterator[None]:
    """Acts on the Deployments of the namespace."""
    mutation = {"patchType": "JSONPatch", "jsonPatch": {"expression": REWRITE}}
    with mutating_policy(kubectl, mutation, sign=DIGEST):
        yield


def test_each_change_is_applied_once_and_arrives(
    kubectl: Kubectl, policy: None, kubelet: Kubelet, operator: Operator, serving: dict[str, Any]
) -> None:
    def are_everywhere(image: str) -> bool:
        return serving_images(kubelet, "head") == [image] and serving_images(kubelet, "replica") == [image] * 3

    eventually(lambda: are_everywhere(f"worker:1{DIGEST}"), "pods of the image with its digest")
    eventually(lambda: kubelet.look() and kubectl.condition("Ready")["status"] == "True", "a pipeline that serves")
    kubectl.settled()
    before = operator.writes()
    kubectl("annotate", "deployment", "digits-head", "digits-painter", "example.com/looked-at=yes")
    kubectl.settled()
    assert operator.writes() == before, "what the server rewrites is no drift"
    change_image(kubectl, "worker:2")
    eventually(lambda: are_everywhere(f"worker:2{DIGEST}"), "the new image everywhere, the head included")
    kubectl.settled()
    assert operator.writes() == before + 2, "one for each Deployment"


def test_what_others_change_is_changed_back_all_the_same(
    kubectl: Kubectl, policy: None, kubelet: Kubelet, operator: Operator, serving: dict[str, Any]
) -> None:
    def painter() -> dict[str, Any]:
        return kubectl.get("deployment", "digits-painter")

    eventually(lambda: image_of(painter()) == f"worker:1{DIGEST}", "an image with its digest")
    kubectl("set", "image", "deployment/digits-painter", f"omni=someone/else{DIGEST}")
    eventually(lambda: image_of(painter()) == f"worker:1{DIGEST}", "the image of the spec again")
