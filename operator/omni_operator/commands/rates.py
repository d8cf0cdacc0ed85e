"""What a pipeline gets done in a second, from what its head told at several moments. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from omni_operator.client.live_view import DIFFUSION, Replica, Stage, View


@dataclass(frozen=True)
class Rate:
    """So many `unit` a second."""

    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.value:.1f} {self.unit}/s"


def rate(name: str, views: Sequence[View]) -> Rate | None:
    """What the stage of this name gets done, from the first view to the last; None where time has not passed, or the
    head does not tell."""
    stages = [stage for view in views for stage in view.stages if stage.name == name]
    seconds = views[-1].at - views[0].at
    if len(stages) < 2 or seconds <= 0:
        return None
    if stages[-1].writes:
        return _of_counts([stage.tokens for stage in stages], seconds, "tokens")
    if stages[-1].engine == DIFFUSION:
        return _of_counts([stage.images for stage in stages], seconds, "pictures")
    return Rate(sum(completed(*pair) for pair in pairwise(stages)) / seconds, "requests")


def completed(before: Stage, after: Stage) -> int:
    """Requests that its replicas completed in between."""
    known = {replica.id: replica for replica in before.replicas}
    return sum(_more(known.get(replica.id), replica) for replica in after.replicas)


def _more(before: Replica | None, after: Replica) -> int:
    if before is None:
        return 0  # a replica that the head did not know has done its work for others
    return _grown(before.completed, after.completed)


def _of_counts(counts: Sequence[int | None], seconds: float, unit: str) -> Rate | None:
    told = [count for count in counts if count is not None]
    if len(told) < len(counts):
        return None
    return Rate(sum(_grown(*pair) for pair in pairwise(told)) / seconds, unit)


def _grown(before: int, after: int) -> int:
    """What a count grew by; whoever starts again counts from 0 again."""
    return after - before if after >= before else after
