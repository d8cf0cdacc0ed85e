"""Single pods that do not start, end, crash, or are lost with their node: what becomes of them, and of the others."""

import copy
from typing import Any

import pytest

from tests.kubernetes.apiserver.kubelet import Kubelet, names_of
from tests.kubernetes.apiserver.operators import LABEL, Kubectl, Operator, eventually

pytestmark = pytest.mark.apiserver
REPLICAS = "omnipipeline.dev/role=replica"


def on(kubelet: Kubelet, image: str, **spec: Any) -> dict[str, Any]:
    """A template that puts pods of this image on the node."""
    template = copy.deepcopy(kubelet.template)
    template["spec"] |= {"containers": [{"name": "omni", "image": image}], **spec}
    return template


def is_serving(kubectl: Kubectl, kubelet: Kubelet) -> bool:
    kubelet.look()
    return bool(kubectl.condition("Ready").get("status") == "True")


def pods(kubectl: Kubectl, role: str) -> set[str]:
    return names_of(kubectl.items("pods", LABEL), role)


def addresses(kubectl: Kubectl, service: str, is_ready: bool) -> list[str]:
    slices = kubectl.items("endpointslices", f"kubernetes.io/service-name={service}")
    endpoints = [endpoint for each in slices for endpoint in each["endpoints"] or []]
    return [address for each in endpoints if each["conditions"]["ready"] is is_ready for address in each["addresses"]]


# What the head does meanwhile, and what the status says of it.
HEADS: dict[str, tuple[str, str]] = {
    "has started and is not ready": ("unready_images", "WaitingForReplicas"),
    "cannot start": ("bad_images", "ImagePullBackOff"),
}


@pytest.mark.parametrize("row", HEADS)
def test_replicas_do_not_wait_for_a_head_that(
    kubectl: Kubectl, kubelet: Kubelet, operator: Operator, digits: dict[str, Any], row: str
) -> None:
    trouble, reason = HEADS[row]
    getattr(kubelet, trouble).add("worker:head")
    digits["spec"]["head"]["template"] = on(kubelet, "worker:head")
    digits["spec"]["stages"][0]["template"] = on(kubelet, "worker:1")
    kubectl.apply(digits)

    def serve_without_it() -> bool:
        kubelet.look()
        return bool(kubectl.get("op", "digits").get("status", {}).get("readyReplicas") == 2)

    eventually(serve_without_it, "two painters that serve")
    eventually(lambda: kubectl.condition("HeadReady").get("reason") == reason, "a status that says so of the head")
    (head,) = kubectl.items("pods", "omnipipeline.dev/role=head")
    address = head["status"]["podIP"]
    eventually(lambda: addresses(kubectl, "digits-head", is_ready=True) == [address], "the address replicas find it by")
    assert addresses(kubectl, "digits", is_ready=True) == [], "and no client does"
    getattr(kubelet, trouble).clear()
    eventually(lambda: is_serving(kubectl, kubelet), "a pipeline that serves")


@pytest.mark.parametrize("role", ["head", "replica"])
def test_a_pod_that_is_deleted_is_replaced_alone(
    kubectl: Kubectl, kubelet: Kubelet, operator: Operator, serving: dict[str, Any], role: str
) -> None:
    kubectl.settled()
    before, writes = {each: pods(kubectl, each) for each in ("head", "replica")}, operator.writes()
    gone = min(before[role])
    kubectl("delete", "pod", gone, "--force", "--grace-period=0")
    eventually(lambda: kubectl.condition("Ready")["status"] == "False", "a status that misses it")
    eventually(lambda: is_serving(kubectl, kubelet), "a pipeline that serves")
    kubectl.settled()
    after = {each: pods(kubectl, each) for each in before}
    (new,) = after[role] - before[role]
    assert after == {**before, role: before[role] - {gone} | {new}}
    assert operator.writes() == writes, "that was for the Deployment to do"


def test_an_evicted_pod_is_replaced_and_what_is_left_of_it_is_no_trouble(
    kubectl: Kubectl, kubelet: Kubelet, serving: dict[str, Any]
) -> None:
    evicted = min(pods(kubectl, "replica"))
    kubelet.evict(evicted)
    eventually(lambda: kubectl.condition("Ready")["status"] == "False", "a status that misses it")
    eventually(lambda: is_serving(kubectl, kubelet), "a pipeline that serves")
    assert kubectl.get("pod", evicted)["status"]["reason"] == "Evicted"
    assert (kubectl.condition("Degraded")["status"], kubectl.condition("Progressing")["reason"]) == (
        "False",
        "Complete",
    )
    assert kubectl.get("op", "digits")["status"]["replicas"] == 3


def test_painters_that_keep_crashing_are_told_of_and_not_multiplied_until_the_spec_is_mended(
    kubectl: Kubectl, kubelet: Kubelet, operator: Operator, digits: dict[str, Any]
) -> None:
    digits["spec"]["head"]["template"] = on(kubelet, "worker:1")
    stage = digits["spec"]["stages"][0]
    stage["template"] = on(kubelet, "worker:broken")
    kubectl.apply(digits)
    eventually(lambda: is_serving(kubectl, kubelet), "a pipeline that serves")
    before = pods(kubectl, "replica")
    kubelet.crashing_images.add("worker:broken")

    def is_told() -> bool:
        kubelet.look()
        return bool(kubectl.condition("Degraded")["reason"] == "CrashLoopBackOff")

    eventually(is_told, "a status that says so")
    assert "omni serve: MODEL /m: no such folder" in kubectl.condition("Degraded")["message"]
    assert kubectl.condition("Progressing")["status"] == "False"
    kubectl("annotate", "op/digits", "look=again")
    kubectl.settled()
    assert pods(kubectl, "replica") == before
    stage["template"] = on(kubelet, "worker:2")
    kubectl.apply(digits)
    eventually(lambda: is_serving(kubectl, kubelet), "a pipeline that serves")
    assert not pods(kubectl, "replica") & before


def test_a_pod_on_a_lost_node_is_replaced_and_never_forced_to_go(
    kubectl: Kubectl, kubelet: Kubelet, serving: dict[str, Any]
) -> None:
    lost = min(pods(kubectl, "replica"))
    uid = kubectl.get("pod", lost)["metadata"]["uid"]
    kubelet.lost.add(lost)
    kubectl("delete", "pod", lost, "--wait=false", "--grace-period=1")
    eventually(lambda: kubectl.condition("Ready")["status"] == "False", "a status that misses it")
    eventually(lambda: is_serving(kubectl, kubelet), "a pipeline that serves")
    assert len(pods(kubectl, "replica")) == 3
    metadata = kubectl.get("pod", lost)["metadata"]
    assert (metadata["uid"], "deletionTimestamp" in metadata) == (uid, True)


def test_a_head_that_waits_for_one_on_a_lost_node_says_so_and_forces_nothing(
    kubectl: Kubectl, kubelet: Kubelet, operator: Operator, digits: dict[str, Any]
) -> None:
    digits["spec"]["head"]["template"] = on(kubelet, "worker:1", terminationGracePeriodSeconds=1)
    digits["spec"]["stages"][0]["template"] = on(kubelet, "worker:1")
    kubectl.apply(digits)
    eventually(lambda: is_serving(kubectl, kubelet), "a pipeline that serves")
    (lost,) = pods(kubectl, "head")
    kubelet.lost.add(lost)
    kubectl("patch", "op", "digits", "--type=merge", "-p", '{"spec": {"loadBalancing": {"policy": "random"}}}')
    looks = iter(range(1000))

    def is_told() -> bool:
        # Time alone is no event: the next resync would see it, and so does any pass before.
        kubectl("annotate", "--overwrite", "op/digits", f"look={next(looks)}")
        return bool(kubectl.condition("HeadReady")["reason"] == "StuckTerminating")

    eventually(is_told, "a status that says so")
    message = kubectl.condition("HeadReady")["message"]
    assert f"pod {lost} should have ended by " in message
    assert f"its node {kubelet.name} does not say that it has" in message
    assert "deletionTimestamp" in kubectl.get("pod", lost)["metadata"]
    assert not pods(kubectl, "head"), "never two of them"
    kubectl("delete", "pod", lost, "--force", "--grace-period=0")
    eventually(lambda: is_serving(kubectl, kubelet), "a pipeline that serves")
