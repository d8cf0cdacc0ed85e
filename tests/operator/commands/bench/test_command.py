"""`omni bench` against heads that respond as the test says."""

import json
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from omni_operator.client.errors import RequestFailed
from tests.loopback import Loopback
from tests.operator.commands.conftest import Omni
from tests.operator.commands.stand_in_head import StandInHead
from tests.worker.serving import free_ports

BENCH = "omni_operator.commands.bench.command"


def test_a_closed_loop_sends_the_mix_that_the_flags_describe(head: StandInHead, omni: Omni) -> None:
    head.seconds = 0.02
    code, text = omni(BENCH, head.url, "--requests", "20", "--mix", "4x32x32:3,64x64", "--no-warm-up", "-o", "json")
    (pipeline,) = json.loads(text)["pipelines"]
    everything, *kinds = pipeline["figures"]
    assert (code, len(head.received)) == (0, 20)
    assert {(one["size"], one.get("num_inference_steps")) for one in head.received} == {("32x32", 4), ("64x64", None)}
    assert [one["kind"] for one in kinds] == ["4 steps 32x32", "64x64"]
    assert sum(one["requests"] for one in kinds) == everything["requests"] == 20
    assert 0.02 <= everything["p50"] <= everything["p95"] <= everything["p99"]


def test_an_open_loop_counts_from_when_a_request_was_due(head: StandInHead, omni: Omni) -> None:
    _, text = omni(BENCH, head.url, "--rate", "50", "--duration", "0.5", "--no-warm-up", "-o", "json")
    (pipeline,) = json.loads(text)["pipelines"]
    assert 5 < pipeline["figures"][0]["requests"] == len(head.received) < 60


def test_two_pipelines_get_the_same_requests_in_turns(head: StandInHead, omni: Omni) -> None:
    other = StandInHead(seconds=0.05)
    try:
        code, text = omni(BENCH, head.url, other.url, "--requests", "10", "--concurrency", "1", "--mix", "2x8x8,3x8x8")
    finally:
        other.close()
    assert code == 0
    assert head.received == other.received
    assert len(head.received) == 2 + 10  # plus one of each kind to warm up
    assert "second / first" in text.splitlines()[-1]


def test_errors_are_counted_and_reported(omni: Omni) -> None:
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


@pytest.mark.parametrize("flags_given", [(), ("--no-warm-up",), ("--trace", "TRACE")], ids=["warm", "cold", "replayed"])
def test_nothing_is_measured_if_one_address_is_no_pipeline(
    flags_given: tuple[str, ...], head: StandInHead, omni: Omni, tmp_path: Path
) -> None:
    (tmp_path / "trace").write_text('{"at": 0, "prompt": "a"}')
    flags = [str(tmp_path / "trace") if flag == "TRACE" else flag for flag in flags_given]
    (port,) = free_ports(1)
    unused = f"http://127.0.0.1:{port}"
    files = Loopback(SimpleHTTPRequestHandler)
    try:
        for url, message in (
            (unused, "nothing answers at {}; is the pipeline running?"),
            (files.url, "{} does not answer like a pipeline; is the address right?"),
        ):
            with pytest.raises(RequestFailed) as caught:
                omni(BENCH, head.url, url, *flags)
            assert (str(caught.value), caught.value.exit_code) == (message.format(url), 1)
    finally:
        files.close()
    assert not head.received, "the other pipeline gets no load"


def test_a_trace_is_replayed_with_a_plot(head: StandInHead, omni: Omni, tmp_path: Path) -> None:
    trace, picture = tmp_path / "trace.jsonl", tmp_path / "bench.png"
    trace.write_text(
        '{"at": 0.2, "prompt": "b", "size": "8x8"}\n\n{"at": 0, "prompt": "a", "num_inference_steps": 3}\n'
    )
    code, _ = omni(BENCH, head.url, "--trace", str(trace), "--speed", "4", "--no-warm-up", "--plot", str(picture))
    assert (code, [one["prompt"] for one in head.received]) == (0, ["a", "b"])
    assert picture.read_bytes().startswith(b"\x89PNG")
