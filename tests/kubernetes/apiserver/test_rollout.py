"""A new image on its way through a pipeline that serves: in which order, how many pods are missing, where it stops."""

from typing import Any

import pytest

from tests.kubernetes.apiserver.kubelet import Kubelet, image_of
from tests.kubernetes.apiserver.operators import Kubectl, Operator, StartOperator, eventually

pytestmark = pytest.mark.apiserver


def change_image(kubectl: Kubectl, image: str) -> None:
    kubectl("patch", "op", "digits", "--type=merge", "-p", f'{{"spec": {{"image": {{"name": "{image}"}}}}}}')


def serving_images(kubelet: Kubelet, role: str) -> list[str]:
    return sorted(image_of(pod) for pod in kubelet.look() if pod["metadata"]["labels"]["omnipipeline.dev/role"] == role)


def test_a_new_image_reaches_the_head_last_and_one_painter_is_missing_at_most(
    kubectl: Kubectl, kubelet: Kubelet, serving: dict[str, Any]
) -> None:
    change_image(kubectl, "worker:2")
    seen: list[tuple[list[str], list[str]]] = []

    def has_arrived() -> bool:
        seen.append((serving_images(kubelet, "head"), serving_images(kubelet, "replica")))
        return seen[-1] == (["worker:2"], ["worker:2"] * 3)

    eventually(has_arrived, "the new image everywhere")
    assert min(len(painters) for _, painters in seen) >= 2
    assert all(head == ["worker:1"] for head, painters in seen if "worker:1" in painters)
    eventually(lambda: kubelet.look() and kubectl.condition("Ready")["status"] == "True", "a pipeline that serves")
    assert kubectl.condition("Progressing")["reason"] == "Complete"


@pytest.mark.parametrize("way", ["back", "forward", "back, after the operator was killed"])
def test_a_broken_image_stops_at_the_first_painter_and_there_is_a_way_out(
    kubectl: Kubectl,
    kubelet: Kubelet,
    operator: Operator,
    start_operator: StartOperator,
    serving: dict[str, Any],
    way: str,
) -> None:
    kubelet.bad_images.add("worker:broken")
    head = kubectl.get("deployment", "digits-head")["metadata"]["generation"]
    change_image(kubectl, "worker:broken")

    def is_stuck() -> bool:
        kubelet.look()
        return bool(kubectl.condition("Progressing")["reason"] == "ImagePullBackOff")

    eventually(is_stuck, "a status that says so")
    if "killed" in way:
        operator.kill()
        start_operator(kubectl.namespace)
    assert kubectl.condition("Progressing")["status"] == "False"
    assert "the image worker:broken cannot be pulled" in kubectl.condition("Progressing")["message"]
    assert kubectl.condition("HeadReady")["status"] == "True"
    assert (kubectl.condition("Degraded")["status"], kubectl.condition("Ready")["status"]) == ("True", "False")
    assert serving_images(kubelet, "head") == ["worker:1"]
    assert serving_images(kubelet, "replica") == ["worker:1", "worker:1"]
    image = "worker:2" if way == "forward" else "worker:1"
    change_image(kubectl, image)
    seen: list[int] = []

    def is_well() -> bool:
        painters = serving_images(kubelet, "replica")
        seen.append(len(painters))
        return painters == [image] * 3 and kubectl.condition("Ready")["status"] == "True"

    eventually(is_well, "a pipeline that serves")
    assert min(seen) >= 2, "the painters that served went on"
    if way != "forward":
        assert kubectl.get("deployment", "digits-head")["metadata"]["generation"] == head, "the head was never touched"


# What happens while worker:2 is on its way: how many painters must go on serving, and how many there are in the end.
MEANWHILE: dict[str, tuple[str, int, int, str]] = {
    "a second edit": ('{"spec": {"image": {"name": "worker:3"}}}', 2, 3, "worker:3"),
    "taken back": ('{"spec": {"image": {"name": "worker:1"}}}', 2, 3, "worker:1"),
    "scaled up": ('{"spec": {"replicas": 4}}', 2, 4, "worker:2"),
    "scaled down": ('{"spec": {"replicas": 2}}', 1, 2, "worker:2"),
    "suspended, and resumed with another image": ('{"spec": {"suspend": true}}', 0, 3, "worker:3"),
}


@pytest.mark.parametrize("row", MEANWHILE)
def test_what_is_edited_in_mid_rollout_keeps_to_its_budget(
    kubectl: Kubectl, kubelet: Kubelet, serving: dict[str, Any], row: str
) -> None:
    patch, least, count, image = MEANWHILE[row]
    change_image(kubectl, "worker:2")
    eventually(lambda: "worker:2" in serving_images(kubelet, "replica"), "the first painter of the new image")
    kubectl("patch", "op", "digits", "--type=merge", "-p", patch)
    if "suspended" in row:
        eventually(lambda: not kubelet.look() and kubectl.condition("Suspended")["status"] == "True", "no pod")
        change_image(kubectl, image)
        kubectl("patch", "op", "digits", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    seen: list[list[str]] = []

    def has_arrived() -> bool:
        seen.append(serving_images(kubelet, "replica"))
        return seen[-1] == [image] * count and kubectl.condition("Ready")["status"] == "True"

    eventually(has_arrived, "the last image everywhere")
    assert min(map(len, seen)) >= least
    eventually(lambda: serving_images(kubelet, "head") == [image], "the head of the same image, which follows")


def test_an_old_painter_that_ends_in_mid_rollout_comes_back_as_it_was(
    kubectl: Kubectl, kubelet: Kubelet, operator: Operator, serving: dict[str, Any]
) -> None:
    kubelet.unready_images.add("worker:2")
    change_image(kubectl, "worker:2")
    old = ["worker:1", "worker:1"]

    def painters() -> list[dict[str, Any]]:
        kubelet.look()
        return kubectl.items("pods", "omnipipeline.dev/role=replica")

    in_mid_rollout = eventually(
        lambda: found if sorted(map(image_of, found := painters())) == [*old, "worker:2"] else None, "one new painter"
    )
    kubectl.settled()
    writes = operator.writes()
    ended = next(pod["metadata"]["name"] for pod in in_mid_rollout if image_of(pod) == "worker:1")
    kubectl("delete", "pod", ended, "--force", "--grace-period=0")
    eventually(lambda: serving_images(kubelet, "replica") == old, "two painters of the old image that serve")
    assert sorted(map(image_of, painters())) == [*old, "worker:2"]
    assert ended not in [pod["metadata"]["name"] for pod in painters()]
    kubectl.settled()
    assert operator.writes() == writes, "that was for the Deployment to do"
    kubelet.unready_images.clear()
    eventually(lambda: serving_images(kubelet, "replica") == ["worker:2"] * 3, "the new image everywhere")
