"""Which pods are marked to go first, on a real API server behind a way that answers for the head."""

from pathlib import Path
from typing import Any

import pytest

from omni_operator.planning.scale_down import DELETION_COST
from tests.kubernetes.apiserver.faults import FaultyServer
from tests.kubernetes.apiserver.kubelet import Kubelet
from tests.kubernetes.apiserver.operators import LABEL, Kubectl, StartOperator, eventually

pytestmark = pytest.mark.apiserver
TOPOLOGY = "/proxy/v1/omni/topology"
NEW, OLD = {"major": "1", "minor": "30"}, {"major": "1", "minor": "20"}


def topology(loads: dict[str, int]) -> dict[str, Any]:
    """What a head would tell of a painter's replicas, by pod."""
    replicas = [
        {"host": pod, "state": "UP", "in_flight": load, "queue_length": 0, "running": load, "capacity": 4}
        for pod, load in loads.items()
    ]
    return {"requests": 0, "stages": [{"name": "painter", "requests": 0, "replicas": replicas}]}


def serving(
    kubectl: Kubectl, kubelet: Kubelet, digits: dict[str, Any], count: int, **stage: Any
) -> dict[str, dict[str, Any]]:
    """What is known of so many painters, once they serve."""
    digits["spec"]["head"]["template"] = digits["spec"]["stages"][0]["template"] = kubelet.template
    digits["spec"]["stages"][0] |= stage
    digits["spec"]["replicas"] = count
    kubectl.apply(digits)
    eventually(lambda: kubelet.look() and kubectl.condition("Ready").get("status") == "True", "a pipeline that serves")
    return painters_of(kubectl)


def painters_of(kubectl: Kubectl) -> dict[str, dict[str, Any]]:
    found = kubectl.items("pods", f"{LABEL},omnipipeline.dev/role=replica")
    return {pod["metadata"]["name"]: pod["metadata"] for pod in found}


@pytest.mark.parametrize(("version", "is_marked"), [(NEW, True), (OLD, False)], ids=["1.30", "1.20"])
def test_the_least_loaded_pod_is_marked_right_before_one_goes(
    kubectl: Kubectl,
    kubelet: Kubelet,
    way: FaultyServer,
    start_operator: StartOperator,
    digits: dict[str, Any],
    tmp_path: Path,
    version: dict[str, str],
    is_marked: bool,
) -> None:
    way.made_up = {"/version": version}
    start_operator(kubectl.namespace, kubeconfig=way.kubeconfig(tmp_path / "way.kubeconfig"))
    painters = sorted(serving(kubectl, kubelet, digits, 3))
    way.made_up[TOPOLOGY] = topology({painters[0]: 3, painters[1]: 1, painters[2]: 2})
    kubectl("scale", "op/digits", "--replicas=2")
    eventually(lambda: kubectl.get("deployment", "digits-painter")["spec"]["replicas"] == 2, "the lower count")
    eventually(lambda: len(kubelet.look()) == 3 and kubectl.condition("Ready")["status"] == "True", "two painters")
    on_pods = [call.path.partition("?")[0].rpartition("/")[2] for call in way.calls if is_write_of_a_pod(call.path)]
    assert on_pods == ([painters[1]] if is_marked else [])
    if is_marked:
        order = [call.path for call in way.calls if call.method == "PATCH"]
        mark = next(i for i, path in enumerate(order) if is_write_of_a_pod(path))
        assert "/deployments/digits-painter" in order[mark + 1], "right before the count is lowered"
        costs = [(pod["metadata"].get("annotations") or {}).get(DELETION_COST) for pod in kubectl.items("pods", LABEL)]
        assert set(costs) <= {None, "-1"}


def test_of_six_the_two_least_loaded_go_with_time_to_finish_and_the_others_stay(
    kubectl: Kubectl,
    kubelet: Kubelet,
    way: FaultyServer,
    start_operator: StartOperator,
    digits: dict[str, Any],
    tmp_path: Path,
) -> None:
    """This cluster does not look at the marks: which two go is its own choice."""
    way.made_up = {"/version": NEW}
    start_operator(kubectl.namespace, kubeconfig=way.kubeconfig(tmp_path / "way.kubeconfig"))
    before = serving(kubectl, kubelet, digits, 6, drain={"timeoutSeconds": 90})
    loads = dict(zip(sorted(before), (3, 1, 2, 5, 0, 4), strict=True))
    way.made_up[TOPOLOGY] = topology(loads)
    kubectl("scale", "op/digits", "--replicas=4")

    def ending() -> list[dict[str, Any]]:
        return [one for one in painters_of(kubectl).values() if one.get("deletionTimestamp")]

    eventually(lambda: len(ending()) == 2, "two pods that end")
    kubectl.settled()
    after = painters_of(kubectl)
    assert {name: one["uid"] for name, one in after.items()} == {name: one["uid"] for name, one in before.items()}
    assert [one["deletionGracePeriodSeconds"] for one in ending()] == [120, 120]
    marked = {name for name, one in after.items() if DELETION_COST in one.get("annotations", {})}
    assert sorted(loads[name] for name in marked) == [0, 1]


def is_write_of_a_pod(path: str) -> bool:
    return "/pods/" in path and "fieldManager=" in path
