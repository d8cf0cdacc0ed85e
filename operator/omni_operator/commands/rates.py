"""The throughput of a stage, from several views of its pipeline. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from omni_operator.client.live_view import DIFFUSION, PipelineView, ReplicaView, StageView


@dataclass(frozen=True)
class Rate:
    """`value` is in units per second."""

    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.value:.1f} {self.unit}/s"


def stage_rate(stage_name: str, views: Sequence[PipelineView]) -> Rate | None:
    """The throughput of a stage between the first view and the last, in tokens, images or requests per second.

    None if no time has passed, or if the head does not report the counts.
    """
    stages = [stage for view in views for stage in view.stages if stage.name == stage_name]
    seconds = views[-1].at - views[0].at
    if len(stages) < 2 or seconds <= 0:
        return None
    if stages[-1].generates_text:
        return _rate_of_counts([stage.tokens for stage in stages], seconds, "tokens")
    if stages[-1].engine == DIFFUSION:
        return _rate_of_counts([stage.images for stage in stages], seconds, "pictures")
    return Rate(sum(_completed_between(*pair) for pair in pairwise(stages)) / seconds, "requests")


def _completed_between(before: StageView, after: StageView) -> int:
    """The requests that the replicas of a stage completed between two views."""
    earlier = {replica.id: replica for replica in before.replicas}
    return sum(_completed_by_replica(earlier.get(replica.id), replica) for replica in after.replicas)


def _completed_by_replica(before: ReplicaView | None, after: ReplicaView) -> int:
    if before is None:
        return 0  # a replica that has just joined completed its requests before the first view, or for another head
    return _increase(before.completed, after.completed)


def _rate_of_counts(counts: Sequence[int | None], seconds: float, unit: str) -> Rate | None:
    reported = [count for count in counts if count is not None]
    if len(reported) < len(counts):
        return None
    return Rate(sum(_increase(*pair) for pair in pairwise(reported)) / seconds, unit)


def _increase(before: int, after: int) -> int:
    """The increase of a counter. A counter that went down has restarted from 0."""
    return after - before if after >= before else after
