"""`omni bench`: what it sends, when, and what it makes of the answers."""

import json
from http.server import SimpleHTTPRequestHandler
from itertools import islice
from pathlib import Path

import pytest

from omni_operator.client.errors import RequestFailed
from omni_operator.commands.bench.figures import build_report, percentile
from omni_operator.commands.bench.load import Round, Sample
from omni_operator.commands.bench.workload import (
    BadWorkload,
    RequestKind,
    parse_mix,
    random_requests,
    read_trace,
    with_poisson_arrivals,
)
from tests.loopback import Loopback
from tests.operator.commands.conftest import Omni
from tests.operator.commands.stand_in_head import StandInHead
from tests.worker.serving import free_ports

BENCH = "omni_operator.commands.bench.command"


def test_a_closed_loop_sends_what_was_asked_for(head: StandInHead, omni: Omni) -> None:
    head.seconds = 0.02
    code, text = omni(BENCH, head.url, "--requests", "20", "--mix", "4x32x32:3,64x64", "--no-warm-up", "-o", "json")
    (pipeline,) = json.loads(text)["pipelines"]
    everything, *kinds = pipeline["figures"]
    assert (code, len(head.asked)) == (0, 20)
    assert {(one["size"], one.get("num_inference_steps")) for one in head.asked} == {("32x32", 4), ("64x64", None)}
    assert [one["kind"] for one in kinds] == ["4 steps 32x32", "64x64"]
    assert sum(one["requests"] for one in kinds) == everything["requests"] == 20
    assert 0.02 <= everything["p50"] <= everything["p95"] <= everything["p99"]


def test_an_open_loop_counts_from_when_a_request_was_due(head: StandInHead, omni: Omni) -> None:
    _, text = omni(BENCH, head.url, "--rate", "50", "--duration", "0.5", "--no-warm-up", "-o", "json")
    (pipeline,) = json.loads(text)["pipelines"]
    assert 5 < pipeline["figures"][0]["requests"] == len(head.asked) < 60


def test_two_pipelines_get_the_same_requests_in_turns(head: StandInHead, omni: Omni) -> None:
    other = StandInHead(seconds=0.05)
    try:
        code, text = omni(BENCH, head.url, other.url, "--requests", "10", "--concurrency", "1", "--mix", "2x8x8,3x8x8")
    finally:
        other.close()
    assert code == 0
    assert head.asked == other.asked
    assert len(head.asked) == 2 + 10  # a request of each kind to warm up
    assert "second / first" in text.splitlines()[-1]


def test_errors_are_counted_and_told(omni: Omni) -> None:
    full, always = StandInHead(fails_each=2), StandInHead(fails_each=1)
    try:
        code, text = omni(BENCH, full.url, "--requests", "10", "--concurrency", "1", "--no-warm-up")
        assert (code, text.splitlines()[1].split()[1:4]) == (0, ["all", "10", "5"])
        assert text.splitlines()[-1] == f"{full.url}: 5 × 429: all queues are full"
        assert omni(BENCH, always.url, "--requests", "2", "--no-warm-up")[0] == 1
        with pytest.raises(RequestFailed, match="cannot be measured"):
            omni(BENCH, always.url, "--requests", "2")
    finally:
        full.close()
        always.close()


@pytest.mark.parametrize("more", [(), ("--no-warm-up",), ("--trace", "TRACE")], ids=["asked", "cold", "replayed"])
def test_where_no_pipeline_answers_nothing_is_measured(
    more: tuple[str, ...], head: StandInHead, omni: Omni, tmp_path: Path
) -> None:
    (tmp_path / "trace").write_text('{"at": 0, "prompt": "a"}')
    flags = [str(tmp_path / "trace") if flag == "TRACE" else flag for flag in more]
    (port,) = free_ports(1)
    nobody = f"http://127.0.0.1:{port}"
    files = Loopback(SimpleHTTPRequestHandler)
    try:
        for url, said in (
            (nobody, "nothing answers at {}; is the pipeline running?"),
            (files.url, "{} does not answer like a pipeline; is the address right?"),
        ):
            with pytest.raises(RequestFailed) as caught:
                omni(BENCH, head.url, url, *flags)
            assert (str(caught.value), caught.value.exit_code) == (said.format(url), 1)
    finally:
        files.close()
    assert not head.asked, "the other one is left alone"


def test_a_trace_is_replayed_with_a_plot(head: StandInHead, omni: Omni, tmp_path: Path) -> None:
    trace, picture = tmp_path / "trace.jsonl", tmp_path / "bench.png"
    trace.write_text(
        '{"at": 0.2, "prompt": "b", "size": "8x8"}\n\n{"at": 0, "prompt": "a", "num_inference_steps": 3}\n'
    )
    code, _ = omni(BENCH, head.url, "--trace", str(trace), "--speed", "4", "--no-warm-up", "--plot", str(picture))
    assert (code, [one["prompt"] for one in head.asked]) == (0, ["a", "b"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_requests_and_times() -> None:
    kinds = [RequestKind(4, 32, 32, 3.0), RequestKind(20, 64, 64)]
    one, two = (
        list(islice(with_poisson_arrivals(random_requests(kinds, ["a", "b"], 7), 5.0, 7), 2000)) for _ in range(2)
    )
    assert one == two
    assert one[-1].due == pytest.approx(400, rel=0.1)
    assert sum(work.kind == kinds[0].name for work in one) == pytest.approx(1500, rel=0.1)


REFUSED = {
    "a size that is none": ("32", "is not STEPSxWIDTHxHEIGHT"),
    "no steps at all": ("0x32x32", "is not STEPSxWIDTHxHEIGHT"),
    "weights of nothing": ("4x32x32:0", "all weights are 0"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_mixes_that_cannot_be(row: str) -> None:
    text, expected = REFUSED[row]
    with pytest.raises(BadWorkload, match=expected):
        parse_mix(text)


@pytest.mark.parametrize("line", ["", "[]", '{"prompt": "a"}', '{"at": -1, "prompt": "a"}', '{"at": 1}', "{"])
def test_traces_that_cannot_be(tmp_path: Path, line: str) -> None:
    (tmp_path / "trace").write_text(line)
    with pytest.raises(BadWorkload, match="--trace"):
        read_trace(tmp_path / "trace", 1.0)


def test_figures() -> None:
    samples = [Sample("a", i, float(i)) for i in range(1, 101)] + [Sample("a", 1, 9.0, error="429: full")]
    found = build_report("u", [Round(samples[:50], 30.0), Round(samples[50:], 20.0)])
    assert (found.all.p50, found.all.p95, found.all.p99, found.all.mean) == (50, 95, 99, 50.5)
    assert (found.all.requests, found.all.errors, found.all.throughput) == (101, 1, 2.0)
    assert found.failures == {"429: full": 1}
    assert percentile([], 50) is None
