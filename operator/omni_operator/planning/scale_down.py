"""Pods to remove on scale-down: those with the fewest requests. Pure.

A Deployment decides which pods to remove. Among ready pods it goes by the annotation DELETION_COST first. So the least
loaded pods get the lowest cost right before the count is lowered: one write for each pod that goes, none for others.
"""

from collections.abc import Mapping, Sequence

from omni_operator.crd.objects import Object
from omni_operator.planning.pod_trouble import is_pod_ready

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""Annotation: pods with a lower cost go first, and without it the cost is 0. Since Kubernetes 1.22."""
SUPPORTED_SINCE = (1, 22)
"""Version of Kubernetes, major and minor."""
FIRST_TO_GO = "-1"
"""The cost of pods that go first."""


def deletion_cost_changes(pods: Sequence[Object], loads: Mapping[str, int], kept: int) -> dict[str, str | None]:
    """The annotations to write so that the `kept` most loaded pods of a stage stay, by pod name. None: remove it.

    `loads`: requests at each pod; 0 for a pod that the head does not know. Empty if somebody else has set costs. Pods
    that are not ready get no cost: Kubernetes removes them first.
    """
    alive = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    costs = {pod["metadata"]["name"]: (pod["metadata"].get("annotations") or {}).get(DELETION_COST) for pod in alive}
    if any(cost not in (None, FIRST_TO_GO) for cost in costs.values()):
        return {}
    ready = [pod for pod in alive if is_pod_ready(pod)]
    surplus = max(0, len(ready) - kept)
    # Of pods with the same load the youngest goes, as with Kubernetes: its caches are worth the least.
    youngest_first = sorted(ready, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
    by_load = sorted(youngest_first, key=lambda pod: loads.get(pod["metadata"]["name"], 0))
    chosen = [pod["metadata"]["name"] for pod in by_load[:surplus]]
    desired = {name: FIRST_TO_GO if name in chosen else None for name in costs}
    return {name: mark for name, mark in desired.items() if mark != costs[name]}


def is_deletion_cost_supported(version: Mapping[str, str]) -> bool:
    """Whether a cluster whose API server has this version goes by the annotation."""
    digits = ["".join(filter(str.isdigit, version.get(part, ""))) for part in ("major", "minor")]
    return all(digits) and (int(digits[0]), int(digits[1])) >= SUPPORTED_SINCE
