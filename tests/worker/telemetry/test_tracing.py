"""Traces of real requests through two stages of real processes, as a collector receives them."""

import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import threading

import pytest

from omni_worker.config.serve_config import _traces_endpoint
from omni_worker.errors import CommandError, UsageError
from omni_worker.replica.wire.messages import Add, pack, unpack_to_replica
from omni_worker.requests import GenerationParams
from tests.worker.serving import Pipeline, client_of, eventually

from .otlp_collector import PATH, Collector

STAGES = [
    {"id": 0, "name": "thinker", "engine": "autoregressive"},
    {"id": 1, "name": "painter", "engine": "diffusion", "input": "text"},
]
ASKED = "two plus five, in blue"
STEPS = 6


@pytest.fixture(scope="module")
def collector():
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def pipeline(collector):
    environment = pytest.MonkeyPatch()
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    pipeline = Pipeline(stages=STAGES)
    try:
        for stage in (0, 1, 1):
            pipeline.add_stage(stage)
        eventually(lambda: len(pipeline.up()) == 3, "a thinker and two painters")
        yield pipeline
    finally:
        pipeline.close()
        environment.undo()


class TracedRequest:
    """A request of a client that traces. All three ids are the client's own."""

    def __init__(self, pipeline, steps=STEPS, **more):
        self.id, self.trace, self.span = (secrets.token_hex(size) for size in (8, 16, 8))
        client_of(pipeline.head.port).images.generate(
            prompt=ASKED,
            size="32x32",
            extra_headers={"X-Request-Id": self.id, "traceparent": f"00-{self.trace}-{self.span}-01"},
            extra_body={"seed": 1, "num_inference_steps": steps},
            **more,
        )


def complete_answer(collector, asked, replicas):
    """The span of the head's answer, once the spans of `replicas` replicas have arrived."""

    def is_whole():
        answers = [span for span in collector.trace(asked.trace) if span.parent == asked.span]
        found = [span for span in every(answers) if span.name == "replica"]
        return len(found) >= replicas and answers[0]

    return eventually(is_whole, "the whole trace")


def every(spans):
    for span in spans:
        yield span
        yield from every(span.children)


@pytest.mark.processes
def test_a_request_is_one_trace_through_all_processes(pipeline, collector):
    asked = TracedRequest(pipeline)
    answer = complete_answer(collector, asked, 2)
    assert collector.trace(asked.trace) == [answer]
    assert (answer.name, answer.parent) == ("POST /v1/images/generations", asked.span)
    assert answer.attributes["http.response.status_code"] == 200
    assert answer.attributes["omni.request.client_id"] == asked.id
    request = answer.one("request")
    assert request.attributes["omni.outcome"] == "completed"
    assert request.names == ["stage thinker", "stage painter"]
    phases = {
        "thinker": ["queue", "prepare", "prefill", "tokens"],
        "painter": ["queue", "prepare", "encode", "denoise", "decode"],
    }
    for stage in ("thinker", "painter"):
        run = request.one(f"stage {stage}").one("run")
        replica = run.one("replica")
        assert replica.names == phases[stage]
        assert [span.service for span in (run, replica)] == ["omni-head", "omni-replica"]
        assert run.attributes["omni.replica"].startswith(f"{stage}-")
        for span in every([request.one(f"stage {stage}")]):
            assert span.attributes["omni.request.id"] == answer.attributes["omni.request.id"]
            assert span.attributes["omni.stage"] == stage
        times = [(span.began, span.ended) for span in replica.children]
        assert times[0][0] >= replica.began
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))
    assert not any(span.failed for span in every([answer]))
    assert request.one("stage painter").one("run").one("replica").one("denoise").attributes["omni.steps"] == STEPS


@pytest.mark.processes
def test_each_answer_of_a_request_has_its_span_and_its_line_of_the_log_has_the_trace(pipeline, collector):
    asked = TracedRequest(pipeline, n=2)
    answer = complete_answer(collector, asked, 4)
    id = answer.attributes["omni.request.id"]
    assert [span.attributes["omni.request.id"] for span in answer.all("request")] == [f"{id}-{i}" for i in range(2)]
    lines = [json.loads(line) for line in pipeline.head.log.splitlines() if line.startswith("{") and asked.id in line]
    assert [line["trace_id"] for line in lines] == [asked.trace] * 2


@pytest.mark.processes
def test_a_run_that_was_lost_with_its_replica_is_told_of_beside_the_one_that_took_its_place(pipeline, collector):
    done = []
    thread = threading.Thread(target=lambda: done.append(TracedRequest(pipeline, steps=400)))
    thread.start()
    running = eventually(
        lambda: [one for one in pipeline.running() if one["total_steps"] == 400], "the request under way"
    )
    address = next(one["address"] for one in pipeline.replicas() if one["id"] == running[0]["replica"])
    process = next(one for one in pipeline.headless if address.rpartition(":")[2] in one.argv)
    os.kill(process.replicas[0], signal.SIGKILL)
    thread.join(600)
    answer = complete_answer(collector, done[0], 2)
    lost, second = answer.one("request").one("stage painter").all("run")
    assert lost.attributes["omni.replica"] == running[0]["replica"] != second.attributes["omni.replica"]
    assert (lost.failed, lost.children) == (True, []), "its replica can no longer tell of it"
    before = [span for span in collector.trace(done[0].trace) if span.parent != done[0].span]
    assert {span.name for span in before} <= {"queue", "prepare", "encode"}, "but of what was over before it was killed"
    assert not second.failed
    assert second.one("replica").one("denoise").attributes["omni.steps"] == 400


def test_nothing_of_it_is_imported_where_no_collector_is_named():
    """Except the OpenTelemetry API, which FastAPI imports."""
    modules = "omni_worker.commands.head, omni_worker.commands.headless, omni_worker.replica.process"
    start = "from omni_worker.telemetry import tracing; tracing.start(None, 'head')"
    script = f"import sys, {modules}; {start}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "omni_worker.replica.server" in loaded
    assert not loaded & {"opentelemetry.sdk", "opentelemetry.exporter", "omni_worker.telemetry.tracing.otlp"}
    assert "omni_worker.replica.request_spans" not in loaded


def test_a_message_is_no_longer_where_there_is_no_trace():
    message = Add("a", GenerationParams(prompt="p"))
    frames = pack(message)
    assert b"trace" not in bytes(frames[0])
    assert unpack_to_replica(frames) == message


ENDPOINTS = {
    "nothing is named": ((None, {}), None),
    "the variable of all signals": ((None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}), f"http://c:4318{PATH}"),
    "the variable of traces is whole": ((None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/t"}), "http://c/t"),
    "the flag goes first": (("http://f/t", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}), "http://f/t"),
    "all of it is switched off": (("http://f/t", {"OTEL_SDK_DISABLED": "true"}), None),
    "traces are switched off": (("http://f/t", {"OTEL_TRACES_EXPORTER": "none"}), None),
}


@pytest.mark.parametrize("row", ENDPOINTS)
def test_where_spans_go(row):
    given, expected = ENDPOINTS[row]
    assert _traces_endpoint(*given) == expected


def test_a_protocol_that_is_not_spoken_is_refused_by_name():
    with pytest.raises(UsageError, match="OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"):
        _traces_endpoint("http://c:4317", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


def test_one_is_told_what_to_install(monkeypatch):
    from omni_worker.telemetry import tracing

    monkeypatch.setitem(sys.modules, "omni_worker.telemetry.tracing.otlp", None)
    with pytest.raises(CommandError, match=r"pip install 'omnipipeline\[tracing\]'"):
        tracing.start("http://c:4318/v1/traces", "head")
