"""The order in which a change reaches the processes of a pipeline: which Deployments must wait for what. Pure.

A new head that does not start would serve nobody. So if only its image changes, the head comes last, after every stage
runs the new image: a broken image stops at the first replica, and the old head continues to serve with the others.
Every other change reaches the head at once: replicas could not join a head with other stages, models or secrets.

A pipeline that downloads its models first creates no pods before they are there.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from omni_operator.crd.objects import Object, Reference
from omni_operator.planning.manifests.labels import HEAD, ROLE
from omni_operator.planning.plan import contains, differs, reference


def head_must_wait(desired: Sequence[Object], live: Sequence[Object]) -> bool:
    """Whether the head keeps its old image until the stages have the new one."""
    live_by_reference = {reference(child): child for child in live}
    deployments = [child for child in desired if child["kind"] == "Deployment"]
    head = next(child for child in deployments if is_head(child))
    live_head = live_by_reference.get(reference(head))
    if live_head is None or not has_ready_pod(live_head) or not differs_only_in_image(head, live_head):
        return False
    stages = [child for child in deployments if not is_head(child)]
    return not all(is_rolled_out(child, live_by_reference.get(reference(child))) for child in stages)


def deployments_waiting_for_prefetch(desired: Sequence[Object], live: Sequence[Object]) -> list[Reference]:
    """The Deployments that are not created yet because their models are still being downloaded."""
    live_by_reference = {reference(child): child for child in live}
    jobs = [child for child in desired if child["kind"] == "Job"]
    if all(is_complete(live_by_reference.get(reference(job))) for job in jobs):
        return []
    deployments = [reference(child) for child in desired if child["kind"] == "Deployment"]
    return [ref for ref in deployments if ref not in live_by_reference]


def is_complete(job: Object | None) -> bool:
    conditions = ((job or {}).get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Complete" and condition["status"] == "True" for condition in conditions)


def is_head(child: Object) -> bool:
    return bool(child["metadata"]["labels"][ROLE] == HEAD)


def has_ready_pod(deployment: Object) -> bool:
    return bool((deployment.get("status") or {}).get("readyReplicas"))


def differs_only_in_image(desired: Object, live: Object) -> bool:
    """Whether the desired Deployment has another image, and equals the live one in everything else."""
    images = {container["name"]: container["image"] for container in containers(desired)}
    if all(images.get(container["name"]) == container["image"] for container in containers(live)):
        return False
    with_new_image: dict[str, Any] = deepcopy(dict(live))
    for container in containers(with_new_image):
        container["image"] = images.get(container["name"], container["image"])
    return contains(with_new_image["spec"], desired["spec"])


def containers(deployment: Object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = deployment["spec"]["template"]["spec"]["containers"]
    return found


def is_rolled_out(desired: Object, live: Object | None) -> bool:
    """Whether every pod of a Deployment exists, runs the desired spec and is ready."""
    if live is None or differs(desired, live):
        return False
    counts = live.get("status") or {}
    if counts.get("observedGeneration", 0) < live["metadata"].get("generation", 0):
        return False
    copies = live["spec"].get("replicas", 0)
    return all(counts.get(key, 0) == copies for key in ("replicas", "readyReplicas", "updatedReplicas"))
