"""A node without a machine: what a kubelet would tell the API server, told by the test."""

import json
from typing import Any
from zlib import crc32

from tests.kubernetes.api_reader import api_reader
from tests.kubernetes.apiserver.operators import LABEL, Kubectl

EVERYTHING = [{"operator": "Exists"}]


class Kubelet:
    """Lets pods on its node serve, fail, and end. Nothing happens but in `look`."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self.kubectl, self.name = kubectl, name
        self.bad_images: set[str] = set()
        self.unready_images: set[str] = set()
        """Those that start, and are not ready."""
        self.crashing_images: set[str] = set()
        self.missing_secret = ""
        self.lost: set[str] = set()
        """Names of pods of which nothing more is heard."""
        kubectl.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})

    @property
    def template(self) -> dict[str, Any]:
        """What puts a pipeline's pods on this node, and keeps them there."""
        return {"spec": {"nodeName": self.name, "tolerations": EVERYTHING}}

    def look(self) -> list[dict[str, Any]]:
        """Bring every pod to where its image takes it. Returns those that serve."""
        api = api_reader(self.kubectl.kubeconfig)
        pods = self.kubectl.items("pods", LABEL)
        for pod in pods:
            name = pod["metadata"]["name"]
            if name in self.lost or pod["status"].get("phase") == "Failed":
                continue
            if pod["metadata"].get("deletionTimestamp"):
                api.delete_at_once("pods", self.kubectl.namespace, name)
            elif state_of(pod["status"]) != state_of(status := self.status(pod)):
                api.patch_status("pods", self.kubectl.namespace, name, status)
        return [pod for pod in pods if is_ready(pod) and not pod["metadata"].get("deletionTimestamp")]

    def status(self, pod: dict[str, Any]) -> dict[str, Any]:
        image = image_of(pod)
        state, last = self.states(image, secrets_of(pod))
        is_running = "running" in state
        serves = is_running and image not in self.unready_images
        container = {"name": "omni", "image": image, "imageID": "", "ready": serves, "started": is_running}
        condition = {"type": "Ready", "status": str(serves), "lastTransitionTime": "2026-01-01T00:00:00Z"}
        return {
            "phase": "Running" if is_running else "Pending",
            "podIP": ".".join(map(str, (10, *crc32(pod["metadata"]["uid"].encode()).to_bytes(4, "big")[:3]))),
            "conditions": [condition],
            "containerStatuses": [{**container, "restartCount": 5 if last else 0, "state": state, "lastState": last}],
        }

    def states(self, image: str, secrets: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a container of that image does that needs these Secrets, and what it did before."""
        if self.missing_secret in secrets:
            return waiting("CreateContainerConfigError", f'secret "{self.missing_secret}" not found'), {}
        if image in self.bad_images:
            return waiting("ImagePullBackOff", f'Back-off pulling image "{image}"'), {}
        if image in self.crashing_images:
            ended = {"exitCode": 2, "reason": "Error", "message": "omni serve: MODEL /m: no such folder\n"}
            return waiting("CrashLoopBackOff", "back-off 5m0s restarting failed container"), {"terminated": ended}
        return {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, {}

    def evict(self, pod: str) -> None:
        """End a pod as a node does that runs out of memory."""
        status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
        status |= {"conditions": None, "containerStatuses": None}
        self.kubectl("patch", "pod", pod, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def waiting(reason: str, message: str) -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def state_of(status: dict[str, Any]) -> Any:
    """What the only container of a pod does, and whether it is ready."""
    return [(one["state"], one["ready"]) for one in status.get("containerStatuses", [])]


def image_of(thing: dict[str, Any]) -> str:
    """The image of a pod, or of a Deployment's pods."""
    spec = thing["spec"].get("template", thing)["spec"]
    return str(spec["containers"][0]["image"])


def secrets_of(pod: dict[str, Any]) -> set[str]:
    """The Secrets that the environment of a pod's only container takes something from."""
    sources = [one.get("valueFrom", {}) for one in pod["spec"]["containers"][0]["env"]]
    return {one["secretKeyRef"]["name"] for one in sources if "secretKeyRef" in one}


def names_of(pods: list[dict[str, Any]], role: str) -> set[str]:
    """The pods of a role that are to stay."""
    return {
        pod["metadata"]["name"]
        for pod in pods
        if pod["metadata"]["labels"]["omnipipeline.dev/role"] == role and not pod["metadata"].get("deletionTimestamp")
    }


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
