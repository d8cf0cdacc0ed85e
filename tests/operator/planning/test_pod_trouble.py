"""The troubles of pods, whose statuses are like those of API servers and kubelets."""

from typing import Any

import pytest

from omni_operator.planning.pod_trouble import pod_trouble, termination_trouble

NAME = "digits-painter-6d4c9f7b8d-x2x4q"


def conditions(ready: bool = False, scheduled: str | None = None) -> list[dict[str, Any]]:
    """A pod's conditions. `scheduled`: the scheduler's message about a pod that it cannot place."""
    placed = {"type": "PodScheduled", "status": "True", "lastProbeTime": None}
    if scheduled is not None:
        return [{**placed, "status": "False", "reason": "Unschedulable", "message": scheduled}]
    is_ready = "True" if ready else "False"
    why = {} if ready else {"reason": "ContainersNotReady", "message": "containers with unready status: [omni]"}
    return [
        {"type": "Initialized", "status": "True", "lastProbeTime": None},
        {"type": "Ready", "status": is_ready, "lastProbeTime": None, **why},
        {"type": "ContainersReady", "status": is_ready, "lastProbeTime": None, **why},
        placed,
    ]


def container(state: dict[str, Any], last: dict[str, Any] | None = None, name: str = "omni") -> dict[str, Any]:
    return {
        "name": name,
        "image": "registry.example.com/worker:2",
        "imageID": "",
        "ready": False,
        "started": False,
        "restartCount": 4 if last else 0,
        "state": state,
        "lastState": last or {},
    }


def pod(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    labels = {"omnipipeline.dev/role": "replica", "omnipipeline.dev/stage": "painter"}
    return {"metadata": {"name": NAME, "namespace": "gallery", "labels": labels, **metadata}, "status": status}


def pending(state: dict[str, Any], last: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"phase": "Pending", "conditions": conditions(), "containerStatuses": [container(state, last)]}


def terminated(code: int, reason: str = "Error", message: str | None = None) -> dict[str, Any]:
    ended = {"exitCode": code, "reason": reason, "startedAt": "2026-01-01T00:00:00Z", "containerID": "containerd://a"}
    return {"terminated": {**ended, **({"message": message} if message else {})}}


TAINT = "1 node(s) had taint {node-role.kubernetes.io/master: }, that the pod didn't tolerate"
GPUS = f"0/3 nodes are available: {TAINT}, 2 Insufficient nvidia.com/gpu."
NO_CLAIM = '0/1 nodes are available: 1 persistentvolumeclaim "weights" not found.'
PULL = 'rpc error: code = NotFound desc = failed to pull and unpack image "registry.example.com/worker:2": not found'
BACK_OFF = f"back-off 5m0s restarting failed container=omni pod={NAME}_gallery(5d4f)"
LOG = "2026-01-01 INFO loading hf://a/b\nomni serve: MODEL hf://a/b: 401 Unauthorized; give the token of the hub\n"
NO_SECRET = 'secret "hub" not found'
EVICTED = "The node was low on resource: memory. Container omni was using 9Gi, which exceeds its request of 0. "

IMAGE = "registry.example.com/models/sdxl:1"
PULL_MODEL = f'failed to pull and unpack image "{IMAGE}": failed to resolve image: connection refused'
NO_IMAGE_VOLUMES = (
    f'failed to generate container "{"6e15" * 16}" spec: failed to generate spec: failed to mkdir "": mkdir : no such'
    " file or directory"
)


def mounting(image: str, status: dict[str, Any]) -> dict[str, Any]:
    """A pod that mounts an image as a volume."""
    return {
        **pod(status),
        "spec": {"volumes": [{"name": "tmp"}, {"name": "model-image", "image": {"reference": image}}]},
    }


# name: (pod, reason, part of the message); None if there is no trouble
PODS: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "no node has GPUs to spare": (
        pod({"phase": "Pending", "conditions": conditions(scheduled=GPUS)}),
        "Unschedulable",
        f"pod {NAME} fits on no node: {GPUS}",
    ),
    "the claim with the model is missing": (
        pod({"phase": "Pending", "conditions": conditions(scheduled=NO_CLAIM)}),
        "Unschedulable",
        'persistentvolumeclaim "weights" not found',
    ),
    "the registry does not know the image": (
        pod(pending({"waiting": {"reason": "ErrImagePull", "message": PULL}})),
        "ImagePullBackOff",
        "the image registry.example.com/worker:2 cannot be pulled; check its name and access",
    ),
    "the node waits before it pulls again, which says the same": (
        pod(pending({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}})),
        "ImagePullBackOff",
        "the image registry.example.com/worker:2 cannot be pulled; check its name and access",
    ),
    "an image of no form": (
        pod(pending({"waiting": {"reason": "InvalidImageName", "message": "couldn't parse image reference"}})),
        "ImagePullBackOff",
        "check its name",
    ),
    "the registry does not know the image of the model": (
        mounting(IMAGE, pending({"waiting": {"reason": "ErrImagePull", "message": PULL_MODEL}})),
        "ImagePullBackOff",
        f"the image {IMAGE} cannot be pulled; check its name and access",
    ),
    "the node waits before it pulls the image of the model again": (
        mounting(IMAGE, pending({"waiting": {"reason": "ImagePullBackOff", "message": f'Back-off "{IMAGE}": {PULL}'}})),
        "ImagePullBackOff",
        f"the image {IMAGE} cannot be pulled; check its name and access",
    ),
    "the worker's image is missing beside that of the model": (
        mounting(IMAGE, pending({"waiting": {"reason": "ErrImagePull", "message": PULL}})),
        "ImagePullBackOff",
        "the image registry.example.com/worker:2 cannot be pulled",
    ),
    "the runtime of the node has no image volumes": (
        mounting(IMAGE, pending({"waiting": {"reason": "CreateContainerError", "message": NO_IMAGE_VOLUMES}})),
        "CreateContainerError",
        'failed to generate container spec: failed to generate spec: failed to mkdir "": mkdir : no such file or'
        " directory; it mounts an image as a volume, for which the node's container runtime must be new enough",
    ),
    "it ends again and again, with its last words": (
        pod(pending({"waiting": {"reason": "CrashLoopBackOff", "message": BACK_OFF}}, terminated(2, message=LOG))),
        "CrashLoopBackOff",
        "keeps ending: exit code 2: omni serve: MODEL hf://a/b: 401 Unauthorized; give the token of the hub",
    ),
    "it runs out of memory again and again": (
        pod(pending({"waiting": {"reason": "CrashLoopBackOff", "message": BACK_OFF}}, terminated(137, "OOMKilled"))),
        "CrashLoopBackOff",
        "keeps ending: OOMKilled, exit code 137",
    ),
    "it runs again after it ended once": (
        pod(pending({"running": {"startedAt": "2026-01-01T00:00:00Z"}}, terminated(1, message="lost the device"))),
        "Restarted",
        "starts again; before, it ended: exit code 1: lost the device",
    ),
    "the Secret of the hub's token is missing": (
        pod(pending({"waiting": {"reason": "CreateContainerConfigError", "message": NO_SECRET}})),
        "CreateContainerConfigError",
        NO_SECRET,
    ),
    "the command is not in the image": (
        pod(pending({"waiting": {"reason": "RunContainerError", "message": 'exec: "omni": executable not found'}})),
        "RunContainerError",
        'exec: "omni": executable not found',
    ),
    "the node evicted it": (
        pod({"phase": "Failed", "reason": "Evicted", "message": EVICTED}),
        "Evicted",
        f"pod {NAME} failed: The node was low on resource: memory.",
    ),
    "an init container of the user's fails": (
        pod(
            {
                "phase": "Pending",
                "conditions": conditions(),
                "initContainerStatuses": [container(terminated(3, message="no such bucket"), name="fetch")],
                "containerStatuses": [container({"waiting": {"reason": "PodInitializing"}})],
            }
        ),
        "Crashed",
        f"container fetch of pod {NAME} ended: exit code 3: no such bucket",
    ),
    "its container is being made": (pod(pending({"waiting": {"reason": "ContainerCreating"}})), None, ""),
    "it loads its weights": (pod(pending({"running": {"startedAt": "2026-01-01T00:00:00Z"}})), None, ""),
    "it serves, and ended once before": (
        pod(
            {
                "phase": "Running",
                "conditions": conditions(ready=True),
                "containerStatuses": [container({"running": {}}, terminated(1))],
            }
        ),
        None,
        "",
    ),
    "it is on its way out": (
        pod({"phase": "Pending", "conditions": conditions(scheduled=GPUS)}, deletionTimestamp="2026-01-01T00:00:00Z"),
        None,
        "",
    ),
    "nothing is known of it yet": (pod({}), None, ""),
}


@pytest.mark.parametrize("row", PODS)
def test_what_keeps_a_pod_from_serving(row: str) -> None:
    found, reason, message = PODS[row]
    trouble = pod_trouble(found)
    assert (trouble and trouble.reason) == reason
    assert message in (trouble.message if trouble else "")


WAITING_IS_NO_CURE = ("cannot be pulled", "keeps ending", "not found", "executable", "must be new enough")


@pytest.mark.parametrize("row", [row for row, (_, reason, _) in PODS.items() if reason])
def test_a_person_is_needed_where_waiting_is_no_cure(row: str) -> None:
    trouble = pod_trouble(PODS[row][0])
    assert trouble is not None
    is_told = any(words in trouble.message for words in WAITING_IS_NO_CURE) and trouble.reason != "Unschedulable"
    assert trouble.needs_a_person is is_told


ENDING = {"deletionTimestamp": "2026-01-01T12:00:00Z"}
# The pod's metadata, the time, and the reason; None if there is no trouble.
LINGERING: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "a pod that is not to end": ({}, "2026-01-01T13:00:00Z", None),
    "one that still has time": (ENDING, "2026-01-01T11:59:00Z", None),
    "one that may be gone already": (ENDING, "2026-01-01T12:00:29Z", None),
    "one that should be gone": (ENDING, "2026-01-01T12:00:30Z", "StuckTerminating"),
    "the next day": (ENDING, "2026-01-02T00:00:00Z", "StuckTerminating"),
}


@pytest.mark.parametrize("row", LINGERING)
def test_a_pod_that_does_not_end_in_time(row: str) -> None:
    metadata, now, reason = LINGERING[row]
    found = {**pod({"phase": "Running", "conditions": conditions(ready=True)}, **metadata), "spec": {"nodeName": "b1"}}
    trouble = termination_trouble(found, now)
    assert (trouble and trouble.reason) == reason
    if trouble:
        assert "should have ended by 2026-01-01T12:00:00Z, and its node b1 does not" in trouble.message
        assert not trouble.needs_a_person


GATES = {
    "Kueue's": (["kueue.x-k8s.io/admission"], "WaitingForQuota", "waits for quota: kueue.x-k8s.io/admission"),
    "Kueue's and another": (["a.b/c", "kueue.x-k8s.io/topology"], "WaitingForQuota", "quota: a.b/c, kueue.x-k8s.io/t"),
    "another": (["a.b/c"], "SchedulingGated", "waits for its scheduling gates: a.b/c"),
}


@pytest.mark.parametrize("row", GATES)
def test_a_pod_that_is_held_back_waits_and_did_not_fail(row: str) -> None:
    gates, reason, words = GATES[row]
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "SchedulingGated",
        "message": "Scheduling is blocked",
    }
    held = pod({"phase": "Pending", "conditions": [condition]})
    held["spec"] = {"schedulingGates": [{"name": name} for name in gates]}
    trouble = pod_trouble(held)
    assert trouble
    assert (trouble.reason, trouble.needs_a_person) == (reason, False)
    assert words in trouble.message
