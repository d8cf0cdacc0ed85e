"""The trouble that keeps a pod from serving, read from its status, in words that a person can act on. Pure.

Messages have no restart counts and no back-off times, which change while the trouble stays the same. They do quote the
scheduler, the kubelet and the last line of a log. If those change, the pipeline's status is written again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from omni_operator.crd.objects import Object

# Ranks, the most urgent one first.
REFUSED, STUCK, UNSCHEDULABLE, NO_IMAGE, CRASHING, NOT_CREATED, FAILED, ENDED, RESTARTED, REPLICA_DOWN = range(10)
GATED, LATE = range(10, 12)
KUEUE = "kueue.x-k8s.io/"
"""Prefix of the labels and scheduling gates of Kueue, which admits pods as the quota allows."""
# Reasons of a waiting container that only needs time.
NORMAL_REASONS = ("ContainerCreating", "PodInitializing")
# How long after its deadline a terminating pod counts as stuck.
TERMINATION_MARGIN = timedelta(seconds=30)
IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")

RUNTIME_HINT = (
    "it mounts an image as a volume, for which the node's container runtime must be new enough"
    " (containerd 2.1, CRI-O 1.33)"
)


@dataclass(frozen=True)
class Trouble:
    """`rank` orders troubles: the lowest is the most urgent. `reason` is one CamelCase word."""

    rank: int
    reason: str
    message: str

    @property
    def needs_a_person(self) -> bool:
        """Whether it cannot pass by itself. A pod without a node may fit later, and one that crashed may run again."""
        return self.rank in (REFUSED, NO_IMAGE, CRASHING, NOT_CREATED)


def pod_trouble(pod: Object) -> Trouble | None:
    """The trouble of a pod; None if it serves, terminates, or only needs time."""
    name = pod["metadata"]["name"]
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp") or is_pod_ready(pod):
        return None
    if has_failed(pod):
        why = status.get("message") or "no reason given"
        return Trouble(FAILED, status.get("reason") or "PodFailed", f"pod {name} failed: {why}")
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Trouble(
                UNSCHEDULABLE, "Unschedulable", f"pod {name} fits on no node: {condition.get('message', '')}"
            )
        if condition["type"] == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            return gated(pod)
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    images = volume_images(pod)
    troubles = [trouble for container in containers if (trouble := container_trouble(name, container, images))]
    return min(troubles, key=lambda trouble: trouble.rank, default=None)


def gated(pod: Object) -> Trouble:
    """The state of a pod that somebody holds back, as Kueue does while there is no quota."""
    gates = [str(gate["name"]) for gate in (pod.get("spec") or {}).get("schedulingGates") or []]
    is_kueue = any(gate.startswith(KUEUE) for gate in gates)
    reason, what = ("WaitingForQuota", "quota") if is_kueue else ("SchedulingGated", "its scheduling gates")
    return Trouble(GATED, reason, f"pod {pod['metadata']['name']} waits for {what}: {', '.join(sorted(gates))}")


def termination_trouble(pod: Object, now: str) -> Trouble | None:
    """The trouble of a pod that should have terminated. On a lost node it may still run. `now` is RFC 3339."""
    deadline = pod["metadata"].get("deletionTimestamp")
    if deadline is None or datetime.fromisoformat(now) < datetime.fromisoformat(deadline) + TERMINATION_MARGIN:
        return None
    node = (pod.get("spec") or {}).get("nodeName") or "none"
    remedy = "see to the node, or delete the pod with --force once you know that it runs no more"
    what = (
        f"pod {pod['metadata']['name']} should have ended by {deadline}, and its node {node} does not say that it has"
    )
    return Trouble(STUCK, "StuckTerminating", f"{what}; {remedy}")


def volume_images(pod: Object) -> list[str]:
    """The references of the images that a pod mounts as volumes."""
    volumes = (pod.get("spec") or {}).get("volumes") or []
    return [str(volume["image"].get("reference")) for volume in volumes if volume.get("image")]


def container_trouble(pod: str, container: Object, images: Sequence[str] = ()) -> Trouble | None:
    """The trouble of one container status of the pod with that name. `images`: those that the pod mounts as volumes."""
    where = f"container {container['name']} of pod {pod}"
    state = container.get("state") or {}
    waiting, ended = state.get("waiting"), state.get("terminated")
    last = (container.get("lastState") or {}).get("terminated")
    if waiting and waiting.get("reason") == "CrashLoopBackOff":
        return Trouble(CRASHING, "CrashLoopBackOff", f"{where} keeps ending: {exit_description(last)}")
    if waiting and waiting.get("reason") in IMAGE_REASONS:
        mounted = next((image for image in images if f'"{image}"' in (waiting.get("message") or "")), None)
        cannot = f"the image {mounted or container.get('image', '')} cannot be pulled; check its name and access"
        return Trouble(NO_IMAGE, "ImagePullBackOff", f"{where}: {cannot}")
    if waiting and waiting.get("reason") == "CreateContainerError" and images:
        why = f"{waiting.get('message') or waiting['reason']}; {RUNTIME_HINT}"
        return Trouble(NOT_CREATED, waiting["reason"], f"{where}: {without_ids(why)}")
    if waiting and waiting.get("reason") not in (*NORMAL_REASONS, None):
        return Trouble(NOT_CREATED, waiting["reason"], f"{where}: {waiting.get('message') or waiting['reason']}")
    if ended and ended.get("exitCode"):
        return Trouble(ENDED, "Crashed", f"{where} ended: {exit_description(ended)}")
    if last and last.get("exitCode"):
        return Trouble(RESTARTED, "Restarted", f"{where} starts again; before, it ended: {exit_description(last)}")
    return None


def without_ids(message: str) -> str:
    """A message of a container runtime without the ids of containers, which differ at each attempt."""
    return re.sub(r'"?\b[0-9a-f]{64}\b"? ?', "", message)


def exit_description(terminated: Object | None) -> str:
    """How a container ended, with the last line of its log if the kubelet kept it."""
    if not terminated:
        return "no details are known"
    reason = terminated.get("reason")
    code = f"exit code {terminated.get('exitCode')}"
    how = f"{reason}, {code}" if reason not in (None, "Error", "Completed") else code
    lines = (terminated.get("message") or "").strip().splitlines()
    return f"{how}: {lines[-1][:300]}" if lines else how


def has_failed(pod: Object) -> bool:
    """Whether a pod has ended for good, with an error."""
    return (pod.get("status") or {}).get("phase") == "Failed"


def is_pod_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def is_started(pod: Object) -> bool:
    """Whether the startup probe of every container has succeeded."""
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return bool(containers) and all(container.get("started") for container in containers)
