"""What keeps a pod from serving, read from its status, in words a person can act on. Pure.

Only facts that stay the same while the trouble does go into a message, so that a status is not rewritten without news.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from omni_operator.crd.objects import Object

# Ranks, the most urgent first.
REFUSED, NOT_ENDING, NO_ROOM, NO_IMAGE, CRASHING, NOT_MADE, FAILED, ENDED, RESTARTED, REPLICA_DOWN, TOO_LATE = range(11)
# What the kubelet says while all is well.
PATIENT = ("ContainerCreating", "PodInitializing")
# What a pod is given to end, beyond its grace period, before its node is doubted.
LEEWAY = timedelta(seconds=30)
IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")


@dataclass(frozen=True)
class Trouble:
    """`rank` orders troubles: the lower, the more it needs a person."""

    rank: int
    reason: str
    message: str

    @property
    def needs_a_person(self) -> bool:
        """Whether waiting is no cure. What fits nowhere may fit later; what ended once may run the next time."""
        return self.rank in (REFUSED, NO_IMAGE, CRASHING, NOT_MADE)


def pod_trouble(pod: Object) -> Trouble | None:
    """The trouble of a pod; None where it serves, ends, or only needs time."""
    name = pod["metadata"]["name"]
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp") or is_pod_ready(pod):
        return None
    if status.get("phase") == "Failed":
        why = status.get("message") or "no reason given"
        return Trouble(FAILED, status.get("reason") or "PodFailed", f"pod {name} failed: {why}")
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Trouble(NO_ROOM, "Unschedulable", f"pod {name} fits on no node: {condition.get('message', '')}")
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    found = [trouble for container in containers if (trouble := container_trouble(name, container))]
    return min(found, key=lambda trouble: trouble.rank, default=None)


def termination_trouble(pod: Object, now: str) -> Trouble | None:
    """The trouble of a pod that should be gone, `now` in RFC 3339: its node is silent, and nobody knows if it runs."""
    by = pod["metadata"].get("deletionTimestamp")
    if by is None or datetime.fromisoformat(now) < datetime.fromisoformat(by) + LEEWAY:
        return None
    node = (pod.get("spec") or {}).get("nodeName") or "none"
    remedy = "see to the node, or delete the pod with --force once you know that it runs no more"
    said = f"pod {pod['metadata']['name']} should have ended by {by}, and its node {node} does not say that it has"
    return Trouble(NOT_ENDING, "StuckTerminating", f"{said}; {remedy}")


def container_trouble(pod: str, container: Object) -> Trouble | None:
    where = f"container {container['name']} of pod {pod}"
    state = container.get("state") or {}
    waiting, ended = state.get("waiting"), state.get("terminated")
    last = (container.get("lastState") or {}).get("terminated")
    if waiting and waiting.get("reason") == "CrashLoopBackOff":
        return Trouble(CRASHING, "CrashLoopBackOff", f"{where} keeps ending: {exit_description(last)}")
    if waiting and waiting.get("reason") in IMAGE:
        cannot = f"the image {container.get('image', '')} cannot be pulled; check its name and access"
        return Trouble(NO_IMAGE, "ImagePullBackOff", f"{where}: {cannot}")
    if waiting and waiting.get("reason") not in (*PATIENT, None):
        return Trouble(NOT_MADE, waiting["reason"], f"{where}: {waiting.get('message') or waiting['reason']}")
    if ended and ended.get("exitCode"):
        return Trouble(ENDED, "Crashed", f"{where} ended: {exit_description(ended)}")
    if last and last.get("exitCode"):
        return Trouble(RESTARTED, "Restarted", f"{where} starts again; before, it ended: {exit_description(last)}")
    return None


def exit_description(terminated: Object | None) -> str:
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
