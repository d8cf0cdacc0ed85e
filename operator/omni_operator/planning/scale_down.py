"""Which pods go when a stage gets fewer of them: those that have the least to do. Pure.

A Deployment chooses by itself which pods to end, and looks at the annotation COST first among those that are ready. So
the least loaded are marked right before the count is lowered: a write for each pod that goes, and none for those that
stay.
"""

from collections.abc import Mapping, Sequence

from omni_operator.crd.objects import Object
from omni_operator.planning.pod_trouble import is_pod_ready

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""Pods with a lower one go first; without it a pod has 0. Kubernetes 1.22 and later look at it."""
SINCE = (1, 22)
FIRST_TO_GO = "-1"


def deletion_cost_changes(pods: Sequence[Object], loads: Mapping[str, int], kept: int) -> dict[str, str | None]:
    """What to write into the annotation of which pods, by name, so that `kept` of a stage's pods stay; None: remove it.

    `loads`: requests at each pod; one that the head does not know of has none. Nothing where someone else has said what
    pods cost, and nothing for pods that are not ready, which go before all others.
    """
    here = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    costs = {pod["metadata"]["name"]: (pod["metadata"].get("annotations") or {}).get(DELETION_COST) for pod in here}
    if any(cost not in (None, FIRST_TO_GO) for cost in costs.values()):
        return {}
    ready = [pod for pod in here if is_pod_ready(pod)]
    going = max(0, len(ready) - kept)
    # Of those with the same load the youngest, as Kubernetes would: what it has cached is worth the least.
    youngest = sorted(ready, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
    order = sorted(youngest, key=lambda pod: loads.get(pod["metadata"]["name"], 0))
    chosen = [pod["metadata"]["name"] for pod in order[:going]]
    wanted = {name: FIRST_TO_GO if name in chosen else None for name in costs}
    return {name: mark for name, mark in wanted.items() if mark != costs[name]}


def is_deletion_cost_supported(version: Mapping[str, str]) -> bool:
    """Whether an API server of this version is one of a cluster that looks at the annotation."""
    digits = ["".join(filter(str.isdigit, version.get(part, ""))) for part in ("major", "minor")]
    return all(digits) and (int(digits[0]), int(digits[1])) >= SINCE
