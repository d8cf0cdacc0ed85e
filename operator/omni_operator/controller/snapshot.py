"""What one pass over a pipeline works on: the pipeline, its children and its pods, read once."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from omni_operator.crd.objects import Object, PipelineKey, Reference
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.kube.errors import ApiError
from omni_operator.planning.plan import reference

NOT_PLANNED = ("resourceVersion", "managedFields")
"""What changes in a pipeline's metadata with its status."""


@dataclass(frozen=True)
class Snapshot:
    """A pipeline with its objects in the cluster.

    manifest: the pipeline as it was read, with its status
    pipeline: the same, parsed
    planned: a hash of what a plan reads of the children
    refusals: the kinds of children that the operator may not watch, each with the server's error
    pending_kinds: the minor kinds whose objects are not known yet
    """

    manifest: Object
    pipeline: OmniPipeline
    children: Sequence[Object]
    planned: int
    pods: Sequence[Object]
    refusals: Mapping[str, ApiError]
    pending_kinds: frozenset[str] = frozenset()

    @property
    def key(self) -> PipelineKey:
        return self.pipeline.namespace, self.pipeline.name

    @property
    def unwatched_kinds(self) -> frozenset[str]:
        """The kinds that a pass leaves alone, because it cannot see their objects."""
        return self.pending_kinds | self.refusals.keys()

    @property
    def is_new(self) -> bool:
        """Whether no pass has made or reported anything yet."""
        return not self.children and not (self.manifest.get("status") or {}).get("conditions")

    def plan_inputs(self, counts: Mapping[str, int], keys: str) -> Hashable:
        """What a plan depends on, compact: equal inputs give equal plans.

        counts: the pod count of each stage; keys: the name of the pipeline's Secret
        """
        metadata = {key: value for key, value in self.manifest["metadata"].items() if key not in NOT_PLANNED}
        wanted = hash(msgspec.json.encode([metadata, self.manifest["spec"]]))
        return wanted, self.planned, frozenset(counts.items()), self.unwatched_kinds, keys

    @property
    def children_by_reference(self) -> dict[Reference, Object]:
        return {reference(child): child for child in self.children}

    @property
    def pods_by_stage(self) -> dict[str, int]:
        """The pod count in the Deployment of each stage that has one."""
        live = self.children_by_reference
        stages = {
            stage.name: ("Deployment", f"{self.pipeline.name}-{stage.name}") for stage in self.pipeline.spec.stages
        }
        return {name: live[ref]["spec"].get("replicas", 1) for name, ref in stages.items() if ref in live}
