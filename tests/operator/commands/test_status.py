"""`omni status` and `omni top --once`: what they show of a pipeline, and what they make of one that is not well."""

import json
from http.server import SimpleHTTPRequestHandler

import pytest

from omni_operator.client.endpoint import EndpointNotFound
from omni_operator.client.errors import RequestFailed
from omni_operator.client.live_view import PipelineView
from omni_operator.commands.rates import stage_rate
from tests.loopback import Loopback
from tests.operator.commands.conftest import Omni
from tests.operator.commands.stand_in_head import PAINTER, THINKER, StandInHead, replica, running, stage

STATUS, TOP = "omni_operator.commands.status", "omni_operator.commands.top"


def test_status_has_a_line_for_each_replica(head: StandInHead, omni: Omni) -> None:
    head.stages = [stage(THINKER, replica("thinker-0", running=3)), stage(PAINTER, replica("painter-0"))]
    head.requests = [running("a")]
    code, text = omni(STATUS, "--url", head.url)
    first, header, *lines = text.splitlines()
    assert code == 0
    assert first == "digits: ready; 1 request under way"
    assert header.split()[:4] == ["STAGE", "MODEL", "REPLICA", "STATE"]
    assert [line.split()[:6] for line in lines] == [
        ["thinker", "Qwen3ForCausalLM", "thinker-0", "UP", "here", "3"],
        ["painter", "QwenImagePipeline", "painter-0", "UP", "here", "0"],
    ]


def test_status_of_a_pipeline_that_is_not_ready_says_why_and_fails(head: StandInHead, omni: Omni) -> None:
    head.not_ready = "no replica is up for: painter"
    head.stages = [stage(PAINTER)]
    code, text = omni(STATUS, "--url", head.url)
    assert code == 1
    assert "not ready: no replica is up for: painter" in text
    assert "no replica" in text.splitlines()[-1]


def test_status_as_json_is_what_the_head_told(head: StandInHead, omni: Omni) -> None:
    code, text = omni(STATUS, "--url", head.url, "--output", "json")
    told = json.loads(text)
    assert (code, told["is_ready"], told["reason"]) == (0, True, None)
    assert told["stages"][0]["replicas"][0]["step_ms"] == 12.5


def test_status_of_nothing_says_so(omni: Omni) -> None:
    with pytest.raises(RequestFailed, match="nothing answers at"):
        omni(STATUS, "--url", "http://127.0.0.1:1")
    with pytest.raises(EndpointNotFound, match="is not an address"):
        omni(STATUS, "--url", "digits")


def test_status_of_another_server_says_so(omni: Omni) -> None:
    server = Loopback(SimpleHTTPRequestHandler)  # it has files, and no probe
    try:
        with pytest.raises(RequestFailed, match="does not answer like a pipeline; is the address right"):
            omni(STATUS, "--url", server.url)
    finally:
        server.close()


def test_top_shows_requests_with_their_progress(head: StandInHead, omni: Omni) -> None:
    head.requests = [running("a-request", step=5, total=20), *(running(f"r{i}") for i in range(20))]
    code, text = omni(TOP, "--once", "--interval", "0.1", "--url", head.url)
    assert code == 0
    assert "5/20" in text
    assert "and 5 more" in text
    assert "0.0 pictures/s" in text


def test_top_as_json_has_the_rates(head: StandInHead, omni: Omni) -> None:
    _, text = omni(TOP, "--output", "json", "--interval", "0.1", "--url", head.url)
    assert json.loads(text)["rates"] == {"painter": {"value": 0.0, "unit": "pictures"}}


def seen(at: float, *replicas: dict, kind: dict = PAINTER) -> PipelineView:
    """A view at a moment."""
    stages = [stage(kind, *replicas)]
    return PipelineView.model_validate(
        {"is_ready": True, "reason": None, "model": "m", "stages": stages, "requests": [], "at": at}
    )


def made(at: float, kind: dict, **counts: int | None) -> PipelineView:
    """A stage that made so much by then."""
    return seen(at, kind={**kind, **counts})


ENCODER = {**THINKER, "task": "encode"}
RATES = {
    "pictures that the stage made in between": (
        [made(0, PAINTER, images=3), made(2, PAINTER, images=9)],
        "3.0 pictures/s",
    ),
    "a head that started again counts from 0": (
        [made(0, PAINTER, images=30), made(2, PAINTER, images=4)],
        "2.0 pictures/s",
    ),
    "tokens of those that write": (
        [made(0, THINKER, tokens=4), made(1, THINKER, tokens=12), made(2, THINKER, tokens=16)],
        "6.0 tokens/s",
    ),
    "a head that does not count": ([made(0, THINKER, tokens=None), made(1, THINKER, tokens=None)], "None"),
    "what replicas completed in between": (
        [seen(0, replica("a", completed=3), kind=ENCODER), seen(2, replica("a", completed=9), kind=ENCODER)],
        "3.0 requests/s",
    ),
    "a replica that started again counts from 0": (
        [seen(0, replica("a", completed=30), kind=ENCODER), seen(2, replica("a", completed=4), kind=ENCODER)],
        "2.0 requests/s",
    ),
    "a replica that came with work done counts from then on": (
        [
            seen(0, kind=ENCODER),
            seen(1, replica("a", completed=100), kind=ENCODER),
            seen(2, replica("a", completed=102), kind=ENCODER),
        ],
        "1.0 requests/s",
    ),
    "one that went takes nothing with it": (
        [
            seen(0, replica("a"), kind=ENCODER),
            seen(1, replica("a", completed=2), kind=ENCODER),
            seen(2, kind=ENCODER),
        ],
        "1.0 requests/s",
    ),
    "one moment gives none": ([seen(0, replica("a"))], "None"),
}


@pytest.mark.parametrize("row", RATES)
def test_rates(row: str) -> None:
    views, expected = RATES[row]
    assert str(stage_rate(views[0].stages[0].name, views)) == expected
