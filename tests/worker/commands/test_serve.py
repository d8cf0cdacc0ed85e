"""The command `omni serve` as real processes: how heads and replicas start, fail, drain and restart."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import openai
import pytest

import omni_worker.models
from tests.worker import serving
from tests.worker.serving import START_SECONDS, eventually, free_ports, pipeline_with_two_replicas, recover

pytestmark = pytest.mark.processes
LONG = {"num_inference_steps": 400}


@pytest.fixture(scope="module")
def pipeline():
    with pipeline_with_two_replicas() as pipeline:
        yield pipeline


@pytest.fixture(autouse=True)
def recovered(pipeline):
    """Each test starts with two idle replicas."""
    recover(pipeline)


def draw(pipeline, *args, **kwargs):
    return serving.draw(pipeline.head.port, *args, **kwargs)


def pixels(image):
    return np.asarray(image).astype(int)


class BackgroundRequest:
    """A request that runs in a thread while the test continues."""

    def __init__(self, pipeline, **extra):
        self.outcome = None
        self._thread = threading.Thread(target=self._run, args=(pipeline, extra))
        self._thread.start()

    def _run(self, pipeline, extra):
        try:
            self.outcome = draw(pipeline, **extra)[0]
        except openai.OpenAIError as error:
            self.outcome = error

    def result(self):
        self._thread.join(START_SECONDS)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def started(pipeline, count=1, step=5):
    def check():
        running = pipeline.running()
        return len(running) == count and all(one["step"] >= step for one in running) and running

    return eventually(check, f"{count} requests under way")


def test_probes_and_metrics_of_every_process(pipeline):
    draw(pipeline)
    for process in (pipeline.head, *pipeline.headless):
        for probe in ("/livez", "/startupz", "/readyz"):
            assert process.get(probe).json() == {"status": "ok"}
    assert 'omni_requests_total{outcome="completed"}' in pipeline.head.get("/metrics").text
    assert 'omni_replica_up{replica="0",stage="stage-0"} 1.0' in pipeline.head.get("/metrics").text
    eventually(
        lambda: (
            "omni_engine_steps_total" in pipeline.headless[0].get("/metrics").text
            and 'omni_engine_keys_alone{index="0"} 0.0' in pipeline.headless[0].get("/metrics").text
        ),
        "the engine's metrics",
    )


def test_a_replica_killed_under_way_costs_no_request_and_the_picture_is_the_same(pipeline):
    expected = pixels(draw(pipeline, seed=11, **LONG)[0])
    requests = [BackgroundRequest(pipeline, seed=11, **LONG) for _ in range(4)]
    assert len({one["replica"] for one in started(pipeline, 4)}) == 2
    (victim,) = pipeline.headless[0].replicas
    os.kill(victim, signal.SIGKILL)
    for request in requests:
        assert np.abs(pixels(request.result()) - expected).max() <= 2
    assert "killed by signal 9" in pipeline.headless[0].log
    assert 'omni_request_retries_total{stage="stage-0"}' in pipeline.head.get("/metrics").text


def test_an_idle_replica_that_dies_is_noticed_at_once(pipeline):
    (victim,) = pipeline.headless[1].replicas
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(pipeline.up()) == 1, "the head to notice")
    assert time.monotonic() - began < 5.0, "before the heartbeat timeout"
    assert draw(pipeline)


def test_sigterm_drains_a_replica_under_way(pipeline):
    requests = [BackgroundRequest(pipeline, seed=i, **LONG) for i in range(4)]
    started(pipeline, 4)
    retries = pipeline.head.get("/metrics").text.count("omni_request_retries_total{")
    assert pipeline.headless[0].stop() == 0
    for request in requests:
        assert request.result()
    assert pipeline.head.get("/metrics").text.count("omni_request_retries_total{") == retries
    assert len(pipeline.replicas()) == 1, "one that drained is gone from the list"


def test_a_head_that_restarts_relearns_its_fleet(pipeline):
    pids = [process.replicas for process in pipeline.headless]
    pipeline.head.stop(signal.SIGKILL)
    pipeline.head.start()
    eventually(lambda: len(pipeline.up()) == 2, "the fleet")
    assert draw(pipeline)
    assert [process.replicas for process in pipeline.headless] == pids, "no replica was restarted"


def test_sigterm_to_the_head_answers_what_runs_first(pipeline):
    request = BackgroundRequest(pipeline, seed=1, **LONG)
    started(pipeline)
    assert pipeline.head.stop() == 0
    assert request.result()
    pipeline.head.start()


def test_a_replica_of_another_model_is_refused_with_the_reason(pipeline, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(f"{omni_worker.models.__path__[0]}/digits", other)
    (other / "omni.json").write_text(json.dumps({"defaults": {"num_inference_steps": 2}}))
    model, pipeline.model = pipeline.model, str(other)
    process = pipeline.add_headless()
    try:
        eventually(lambda: "another model" in process.get("/readyz").json().get("reason", ""), "the refusal")
        assert len(pipeline.up()) == 2
    finally:
        pipeline.model = model
        pipeline.headless.remove(process)
        process.close()


def omni(*argv):
    return subprocess.run(
        [sys.executable, "-m", "omni_worker.commands.cli", *argv],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_a_busy_port_is_a_clear_message(pipeline):
    ended = omni("serve", "builtin://digits", "--host", "127.0.0.1", "--port", str(pipeline.head.port))
    assert ended.returncode == 1
    assert f"port {pipeline.head.port}" in ended.stderr
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_busy_data_port_ends_a_headless_process_with_the_reason(pipeline):
    port, data = free_ports(2)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", data))
        taken.listen()
        ended = omni(
            "serve", "builtin://digits", "--headless", "--omni-master-address", "127.0.0.1",
            "--port", str(port), "--omni-replica-port", str(data),
        )  # fmt: skip
    assert ended.returncode == 1
    assert f"data port {data}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["serve", "./nope"], "no such folder"),
        (["serve", "builtin://digits", "--omni-lb-policy", "fastest"], "invalid choice: 'fastest'"),
        (["serve"], "MODEL"),
        (["srve"], "unknown command 'srve'"),
    ],
)
def test_wrong_usage_ends_with_two_and_says_what_to_do(argv, says):
    ended = omni(*argv)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


FLAGS = (
    "--stage-id --headless --omni-master-address --omni-master-port --omni-dp-size-local --omni-lb-policy --replica-id "
    "--omni-heartbeat-timeout --omni-replica-address --step-execution --max-num-seqs --stage-init-timeout "
    "--stage-config"
)


def test_help_names_every_flag():
    text = omni("serve", "--help").stdout
    assert [flag for flag in FLAGS.split(" ") if flag not in text] == []
