"""A node without a machine: what a kubelet would tell the API server, told by the test."""

import json
from typing import Any

from tests.kubernetes.apiserver.operators import LABEL, Kubectl

EVERYTHING = [{"operator": "Exists"}]


class Kubelet:
    """Lets pods on its node serve, fail, and end. Nothing happens but in `look`."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self.kubectl, self.name = kubectl, name
        self.bad_images: set[str] = set()
        self.missing_secret = ""
        kubectl.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})

    @property
    def template(self) -> dict[str, Any]:
        """What puts a pipeline's pods on this node, and keeps them there."""
        return {"spec": {"nodeName": self.name, "tolerations": EVERYTHING}}

    def look(self) -> list[dict[str, Any]]:
        """Bring every pod to where its image takes it. Returns those that serve."""
        pods = self.kubectl.items("pods", LABEL)
        for pod in pods:
            name = pod["metadata"]["name"]
            if pod["metadata"].get("deletionTimestamp"):
                self.kubectl.tried("delete", "pod", name, "--force", "--grace-period=0", "--wait=false")
            elif state_of(pod.get("status", {})) != state_of(status := self.status(pod)):
                patch = json.dumps({"status": status})
                self.kubectl.tried("patch", "pod", name, "--subresource=status", "--type=merge", "-p", patch)
        return [pod for pod in pods if is_ready(pod) and not pod["metadata"].get("deletionTimestamp")]

    def status(self, pod: dict[str, Any]) -> dict[str, Any]:
        image = image_of(pod)
        is_bad = image in self.bad_images or bool(self.missing_secret)
        reason, message = "ImagePullBackOff", f'Back-off pulling image "{image}"'
        if self.missing_secret:
            reason, message = "CreateContainerConfigError", f'secret "{self.missing_secret}" not found'
        waiting = {"waiting": {"reason": reason, "message": message}}
        running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        container = {"name": "omni", "image": image, "imageID": "", "ready": not is_bad, "started": not is_bad}
        condition = {"type": "Ready", "status": str(not is_bad), "lastTransitionTime": "2026-01-01T00:00:00Z"}
        return {
            "phase": "Pending" if is_bad else "Running",
            "conditions": [condition],
            "containerStatuses": [{**container, "restartCount": 0, "state": waiting if is_bad else running}],
        }


def state_of(status: dict[str, Any]) -> Any:
    """What the only container of a pod does."""
    return [one["state"] for one in status.get("containerStatuses", [])]


def image_of(thing: dict[str, Any]) -> str:
    """The image of a pod, or of a Deployment's pods."""
    spec = thing["spec"].get("template", thing)["spec"]
    return str(spec["containers"][0]["image"])


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
