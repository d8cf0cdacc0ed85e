"""Whose turn it is to get other pods because the operator was upgraded: a few pipelines at a time. Pure.

A new version of the operator, or another default image, changes the Deployments of every pipeline. If all of them
rolled at the same moment, a bad image would reach all, and nodes, registries and the hub would serve all at once. So
pipelines take turns. A change of the pipeline itself waits for nobody, and takes the operator's change with it.

The state of one process is enough. A pipeline has its upgrade as soon as its Deployments are what this process makes of
it. From then on, whatever differs is a change of the pipeline, its Secret, or its load.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from omni_operator.crd.objects import Object, PipelineKey
from omni_operator.planning.manifests.ownership import POD_HASH
from omni_operator.planning.plan import Plan, reference

WAITING = "WaitingForTurn"
"""The reason of Progressing for a pipeline that waits for its turn."""


class Turns:
    """At most `limit` pipelines have a turn. The others wait in the order in which they asked."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._upgraded: set[PipelineKey] = set()
        self._upgrading: set[PipelineKey] = set()
        self._waiting: dict[PipelineKey, None] = {}

    def take(self, key: PipelineKey) -> bool:
        """Whether a pipeline may change now because of the operator. Otherwise it waits until it is the `next`."""
        if key in self._upgraded or key in self._upgrading:
            return True
        self._waiting.setdefault(key)
        if self.next() != key:
            return False
        del self._waiting[key]
        self._upgrading.add(key)
        return True

    def has(self, key: PipelineKey) -> bool:
        """Whether the pipeline has a turn."""
        return key in self._upgrading

    def end(self, key: PipelineKey, is_upgraded: bool) -> None:
        """The pipeline needs no turn: it `is_upgraded`, or it cannot change now and would only hold up the others."""
        self._upgrading.discard(key)
        self._waiting.pop(key, None)
        if is_upgraded:
            self._upgraded.add(key)

    def forget(self, key: PipelineKey) -> None:
        """The pipeline no longer exists."""
        self.end(key, is_upgraded=False)
        self._upgraded.discard(key)

    def next(self) -> PipelineKey | None:
        """The pipeline whose turn it is, if one waits and there is room."""
        return next(iter(self._waiting), None) if len(self._upgrading) < self._limit else None


def upgraded_deployments(manifest: Object, plan: Plan, live: Sequence[Object]) -> list[Object]:
    """The Deployments of a plan whose pods are replaced only because the operator changed.

    Not those of a pipeline whose spec has changed since its last pass, or which was still on its way to its spec then,
    nor those with another number of pods, because a pipeline is scaled at once.
    """
    status = manifest.get("status") or {}
    if status.get("observedGeneration") != manifest["metadata"].get("generation") or is_on_its_way(status):
        return []
    live_by_reference = {reference(child): child for child in live}
    found = []
    for child in plan.apply:
        before = live_by_reference.get(reference(child))
        if child["kind"] != "Deployment" or before is None or pod_hash(before) == pod_hash(child):
            continue
        if child["spec"].get("replicas", before["spec"].get("replicas")) == before["spec"].get("replicas"):
            found.append(child)
    return found


def is_on_its_way(status: Mapping[str, Any]) -> bool:
    """Whether the last pass left a change of the pipeline unfinished. This process need not have seen that pass."""
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    progressing = conditions.get("Progressing") or {}
    return progressing.get("status") == "True" and progressing.get("reason") != WAITING


def pod_hash(child: Object) -> str | None:
    """The hash of the pod template that we applied."""
    return (child["metadata"].get("annotations") or {}).get(POD_HASH)
