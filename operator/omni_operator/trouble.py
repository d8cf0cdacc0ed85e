"""What keeps a pod from serving, read from its status, in words a person can act on. Pure.

Only facts that stay the same while the trouble does go into a message, so that a status is not rewritten without news.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]

# What the kubelet says while all is well.
PATIENT = ("ContainerCreating", "PodInitializing")
IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")


@dataclass(frozen=True)
class Trouble:
    """`rank` orders troubles: the lower, the more it needs a person."""

    rank: int
    reason: str
    message: str


def pod_trouble(pod: Object) -> Trouble | None:
    """The trouble of a pod; None where it serves, ends, or only needs time."""
    name = pod["metadata"]["name"]
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp") or is_pod_ready(pod):
        return None
    if status.get("phase") == "Failed":
        return Trouble(
            5, status.get("reason") or "PodFailed", f"pod {name} failed: {status.get('message') or 'no reason given'}"
        )
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Trouble(1, "Unschedulable", f"pod {name} fits on no node: {condition.get('message', '')}")
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    found = [trouble for container in containers if (trouble := container_trouble(name, container))]
    return min(found, key=lambda trouble: trouble.rank, default=None)


def container_trouble(pod: str, container: Object) -> Trouble | None:
    where = f"container {container['name']} of pod {pod}"
    state = container.get("state") or {}
    waiting, ended = state.get("waiting"), state.get("terminated")
    last = (container.get("lastState") or {}).get("terminated")
    if waiting and waiting.get("reason") == "CrashLoopBackOff":
        return Trouble(3, "CrashLoopBackOff", f"{where} keeps ending: {ending(last)}")
    if waiting and waiting.get("reason") in IMAGE:
        image = container.get("image", "")
        return Trouble(2, "ImagePullBackOff", f"{where}: the image {image} cannot be pulled; check its name and access")
    if waiting and waiting.get("reason") not in (*PATIENT, None):
        return Trouble(4, waiting["reason"], f"{where}: {waiting.get('message') or waiting['reason']}")
    if ended and ended.get("exitCode"):
        return Trouble(6, "Crashed", f"{where} ended: {ending(ended)}")
    if last and last.get("exitCode"):
        return Trouble(7, "Restarted", f"{where} starts again; before, it ended: {ending(last)}")
    return None


def ending(terminated: Object | None) -> str:
    """How a container ended, with the last line it wrote, where the kubelet kept it."""
    if not terminated:
        return "no details are known"
    reason = terminated.get("reason")
    code = f"exit code {terminated.get('exitCode')}"
    how = f"{reason}, {code}" if reason not in (None, "Error", "Completed") else code
    lines = (terminated.get("message") or "").strip().splitlines()
    return f"{how}: {lines[-1][:300]}" if lines else how


def is_pod_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
