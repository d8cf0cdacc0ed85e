"""In which order a change reaches the processes of a pipeline: what has to wait for what. Pure.

The head is there once, and is never rolled: a new head that does not start serves nobody. So where only its image
changes, it comes last, when every stage runs the new one; a broken image then stops at the first replica, and the old
head goes on serving with the rest. Every other change reaches the head at once: its replicas join by what it knows of
stages, models and secrets, and could not become ready before it does.

And a pipeline that has its models downloaded first makes no pod before they are there.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from omni_operator.crd.objects import Object, Reference
from omni_operator.planning.manifests.labels import HEAD, ROLE
from omni_operator.planning.plan import contains, differs, reference


def head_must_wait(wanted: Sequence[Object], live: Sequence[Object]) -> bool:
    """Whether the head keeps its image for now."""
    found = {reference(child): child for child in live}
    deployments = [child for child in wanted if child["kind"] == "Deployment"]
    head = next(child for child in deployments if is_head(child))
    current = found.get(reference(head))
    return (
        current is not None
        and serves(current)
        and changes_only_its_image(head, current)
        and not all(has_arrived(child, found.get(reference(child))) for child in deployments if not is_head(child))
    )


def waiting_for_prefetch(wanted: Sequence[Object], live: Sequence[Object]) -> list[Reference]:
    """The Deployments that are not made yet, since what their pods load is still being downloaded."""
    found = {reference(child): child for child in live}
    jobs = [child for child in wanted if child["kind"] == "Job"]
    if all(is_complete(found.get(reference(job))) for job in jobs):
        return []
    deployments = [reference(child) for child in wanted if child["kind"] == "Deployment"]
    return [ref for ref in deployments if ref not in found]


def is_complete(job: Object | None) -> bool:
    conditions = ((job or {}).get("status") or {}).get("conditions") or []
    return any(one["type"] == "Complete" and one["status"] == "True" for one in conditions)


def is_head(child: Object) -> bool:
    return bool(child["metadata"]["labels"][ROLE] == HEAD)


def serves(deployment: Object) -> bool:
    return bool((deployment.get("status") or {}).get("readyReplicas"))


def changes_only_its_image(wanted: Object, live: Object) -> bool:
    """Whether the wanted Deployment has another image, and is as the live one in all else."""
    images = {one["name"]: one["image"] for one in containers(wanted)}
    if all(images.get(one["name"]) == one["image"] for one in containers(live)):
        return False
    with_image: dict[str, Any] = deepcopy(dict(live))
    for one in containers(with_image):
        one["image"] = images.get(one["name"], one["image"])
    return contains(with_image["spec"], wanted["spec"])


def containers(deployment: Object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = deployment["spec"]["template"]["spec"]["containers"]
    return found


def has_arrived(wanted: Object, live: Object | None) -> bool:
    """Whether all that is wanted of a Deployment runs and is ready."""
    if live is None or differs(wanted, live):
        return False
    counts = live.get("status") or {}
    if counts.get("observedGeneration", 0) < live["metadata"].get("generation", 0):
        return False
    copies = live["spec"].get("replicas", 0)
    return all(counts.get(key, 0) == copies for key in ("replicas", "readyReplicas", "updatedReplicas"))
