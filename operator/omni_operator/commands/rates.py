"""What a pipeline gets done in a second, from what its head told at several moments. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from omni_operator.commands.view import Replica, Running, Stage, View


@dataclass(frozen=True)
class Rate:
    """So many `unit` a second."""

    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.value:.1f} {self.unit}/s"


def rate(name: str, views: Sequence[View]) -> Rate | None:
    """What the stage of this name gets done, from the first view to the last; None where time has not passed."""
    stages = [stage for view in views for stage in view.stages if stage.name == name]
    seconds = views[-1].at - views[0].at
    if len(stages) < 2 or seconds <= 0:
        return None
    if stages[-1].writes:
        return Rate(sum(tokens(name, *pair) for pair in pairwise(views)) / seconds, "tokens")
    unit = "pictures" if stages[-1].engine == "diffusion" else "requests"
    return Rate(sum(completed(*pair) for pair in pairwise(stages)) / seconds, unit)


def completed(before: Stage, after: Stage) -> int:
    """Requests that its replicas completed in between. One that started again counts from 0 again."""
    known = {replica.id: replica for replica in before.replicas}
    return sum(_more(known.get(replica.id), replica) for replica in after.replicas)


def _more(before: Replica | None, after: Replica) -> int:
    if before is None:
        return 0  # a replica that the head did not know has done its work for others
    return after.completed - before.completed if after.completed >= before.completed else after.completed


def tokens(name: str, before: View, after: View) -> int:
    """Tokens that the requests at a stage grew by; the last ones of a request that ended in between are not known."""
    known = _steps(name, before.requests)
    return sum(max(0, step - known.get(id, 0)) for id, step in _steps(name, after.requests).items())


def _steps(name: str, requests: Iterable[Running]) -> dict[str, int]:
    return {request.id: request.step for request in requests if request.stage == name}
