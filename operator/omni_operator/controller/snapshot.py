"""What one pass over a pipeline works on: the pipeline, its children and its pods, read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omni_operator.crd.objects import Object, Reference
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.kube.errors import ApiError
from omni_operator.planning.plan import reference


@dataclass(frozen=True)
class Snapshot:
    """A pipeline with its objects in the cluster.

    manifest: the pipeline as it was read, with its status
    pipeline: the same, parsed
    refusals: the kinds of children that the operator may not watch, each with the server's error
    """

    manifest: Object
    pipeline: OmniPipeline
    children: Sequence[Object]
    pods: Sequence[Object]
    refusals: Mapping[str, ApiError]

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
