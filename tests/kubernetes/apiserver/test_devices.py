"""Devices that are allocated dynamically, by the real scheduler: two devices on a node, and three replicas."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.kubernetes.apiserver.operators import Kubectl, Operator, eventually

pytestmark = pytest.mark.since(34, "claims of devices")
GROUP = "resource.k8s.io/v1"
POD = {"spec": {"tolerations": [{"operator": "Exists"}]}}


class DeviceNode:
    """A node with room for pods and with two devices, which nothing but the test keeps alive."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl, self.name = kubectl, f"devices-{kubectl.namespace}"
        self.driver = f"{self.name}.example.com"
        taint = {"key": "example.com/only-of-this-test", "effect": "NoSchedule"}
        pool = {"name": self.name, "generation": 1, "resourceSliceCount": 1}
        devices = [{"name": "gpu-0"}, {"name": "gpu-1"}]
        expression = f"device.driver == '{self.driver}'"
        kubectl.apply(
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name}, "spec": {"taints": [taint]}},
            {
                "apiVersion": GROUP,
                "kind": "DeviceClass",
                "metadata": {"name": self.driver},
                "spec": {"selectors": [{"cel": {"expression": expression}}]},
            },
            {
                "apiVersion": GROUP,
                "kind": "ResourceSlice",
                "metadata": {"name": self.name},
                "spec": {"driver": self.driver, "nodeName": self.name, "pool": pool, "devices": devices},
            },
        )
        self.beat()

    def beat(self) -> None:
        """Tell that the node is ready, as a kubelet does all the time."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
        ready |= {"lastHeartbeatTime": now, "lastTransitionTime": now}
        room = {"cpu": "64", "memory": "256Gi", "pods": "110", "ephemeral-storage": "256Gi"}
        status = {"capacity": room, "allocatable": room, "conditions": [ready]}
        patch = json.dumps({"status": status})
        self.kubectl("patch", "node", self.name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def remove(self) -> None:
        for kind, name in (("node", self.name), ("deviceclass", self.driver), ("resourceslice", self.name)):
            self.kubectl("delete", kind, name)


@pytest.fixture
def node(kubectl: Kubectl) -> Iterator[DeviceNode]:
    node = DeviceNode(kubectl)
    yield node
    kubectl("delete", "op", "--all", "--timeout=30s")
    node.remove()


@pytest.mark.parametrize("key", ["deviceClassName", "resourceClaimTemplateName"])
def test_two_of_three_replicas_get_a_device_and_the_status_says_what_the_third_lacks(
    kubectl: Kubectl, node: DeviceNode, operator: Operator, digits: dict[str, Any], key: str
) -> None:
    digits["spec"]["replicas"] = 3
    digits["spec"]["stages"][0] |= {"accelerator": {key: node.driver}, "template": POD}
    request = {"name": "gpu", "exactly": {"deviceClassName": node.driver}}
    kubectl.apply(
        {
            "apiVersion": GROUP,
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": node.driver},
            "spec": {"spec": {"devices": {"requests": [request]}}},
        },
        digits,
    )

    def devices() -> list[str]:
        """The devices that are allocated, once three pods were looked at."""
        node.beat()
        results = [(claim.get("status") or {}).get("allocation") for claim in kubectl.items("resourceclaims")]
        allocated = [one["devices"]["results"][0]["device"] for one in results if one]
        return sorted(allocated) if (len(results), len(allocated)) == (3, 2) else []

    assert eventually(devices, "two claims with a device, and one without") == ["gpu-0", "gpu-1"]

    def says_so() -> bool:
        node.beat()
        stage = kubectl.get("op", "digits")["status"]["stages"][0]
        return "cannot allocate all claims" in stage.get("message", "")

    eventually(says_so, "a status that says what the third pod lacks")
    assert kubectl.get("op", "digits")["status"]["stages"][0]["reason"] == "Unschedulable"
    assert kubectl.condition("Ready")["reason"] == "Unschedulable"
