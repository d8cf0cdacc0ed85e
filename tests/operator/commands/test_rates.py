"""Throughput of a stage, from views of its pipeline."""

import pytest

from omni_operator.client.live_view import PipelineView
from omni_operator.commands.rates import stage_rate
from tests.operator.commands.stand_in_head import PAINTER, THINKER, replica, stage


def view(at: float, *replicas: dict, kind: dict = PAINTER) -> PipelineView:
    """A view `at` a moment, with one stage."""
    stages = [stage(kind, *replicas)]
    return PipelineView.model_validate(
        {"is_ready": True, "reason": None, "model": "m", "stages": stages, "requests": [], "at": at}
    )


def counted(at: float, kind: dict, **counts: int | None) -> PipelineView:
    """A view of a stage with these counts."""
    return view(at, kind={**kind, **counts})


ENCODER = {**THINKER, "task": "encode"}
RATES = {
    "images that the stage generated in between": (
        [counted(0, PAINTER, images=3), counted(2, PAINTER, images=9)],
        "3.0 pictures/s",
    ),
    "a head that restarted counts from 0": (
        [counted(0, PAINTER, images=30), counted(2, PAINTER, images=4)],
        "2.0 pictures/s",
    ),
    "tokens of a stage that generates text": (
        [counted(0, THINKER, tokens=4), counted(1, THINKER, tokens=12), counted(2, THINKER, tokens=16)],
        "6.0 tokens/s",
    ),
    "a head that does not count": ([counted(0, THINKER, tokens=None), counted(1, THINKER, tokens=None)], "None"),
    "requests that the replicas completed in between": (
        [view(0, replica("a", completed=3), kind=ENCODER), view(2, replica("a", completed=9), kind=ENCODER)],
        "3.0 requests/s",
    ),
    "a replica that restarted counts from 0": (
        [view(0, replica("a", completed=30), kind=ENCODER), view(2, replica("a", completed=4), kind=ENCODER)],
        "2.0 requests/s",
    ),
    "a replica that joined later counts from then on": (
        [
            view(0, kind=ENCODER),
            view(1, replica("a", completed=100), kind=ENCODER),
            view(2, replica("a", completed=102), kind=ENCODER),
        ],
        "1.0 requests/s",
    ),
    "a replica that left keeps its earlier requests": (
        [
            view(0, replica("a"), kind=ENCODER),
            view(1, replica("a", completed=2), kind=ENCODER),
            view(2, kind=ENCODER),
        ],
        "1.0 requests/s",
    ),
    "a single view gives no rate": ([view(0, replica("a"))], "None"),
}


@pytest.mark.parametrize("row", RATES)
def test_rates(row: str) -> None:
    views, expected = RATES[row]
    assert str(stage_rate(views[0].stages[0].name, views)) == expected
