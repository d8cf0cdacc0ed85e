"""The serving stack as real processes: a head, headless replicas, and the official client."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest

import omni_worker.models
from omni_worker.models.digits_reader import read
from tests.worker import serving
from tests.worker.serving import Pipeline, client_of, eventually, free_ports

pytestmark = pytest.mark.processes
LONG = {"num_inference_steps": 1000}


@pytest.fixture(scope="module")
def pipeline():
    pipeline = Pipeline()
    try:
        for _ in range(2):
            pipeline.add_headless()
        eventually(lambda: len(pipeline.up()) == 2, "two replicas up")
        yield pipeline
    finally:
        pipeline.close()


@pytest.fixture(autouse=True)
def whole(pipeline):
    """Each test begins with two replicas and leaves no request behind."""
    for process in pipeline.headless:
        if process.popen.poll() is not None:
            process.start()
    eventually(lambda: len(pipeline.up()) == 2 and not pipeline.running(), "two replicas up and idle")


def draw(pipeline, *args, **kwargs):
    return serving.draw(pipeline.head.port, *args, **kwargs)


def pixels(image):
    return np.asarray(image).astype(int)


class InBackground:
    """A request that runs while the test goes on."""

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
        self._thread.join(120)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def started(pipeline, count=1, step=5):
    def check():
        running = pipeline.running()
        return len(running) == count and all(one["step"] >= step for one in running) and running

    return eventually(check, f"{count} requests under way")


def test_a_picture_shows_what_was_asked_for(pipeline):
    (image,) = draw(pipeline, "a red three on black background", seed=1)
    reading = read(image)
    assert (reading.digit, reading.colour, reading.background) == (3, "red", "black")


def test_the_same_seed_draws_the_same_picture_and_each_of_n_has_its_own(pipeline):
    one = pixels(draw(pipeline, seed=7)[0])
    assert np.abs(one - pixels(draw(pipeline, seed=7)[0])).max() <= 2
    first, second = draw(pipeline, seed=7, n=2)
    assert np.abs(one - pixels(first)).max() <= 2
    assert np.abs(pixels(second) - pixels(draw(pipeline, seed=8)[0])).max() <= 2
    assert np.abs(one - pixels(second)).max() > 10


def test_size_steps_guidance_and_negative_prompt_reach_the_model(pipeline):
    base = pixels(draw(pipeline, seed=3)[0])
    assert draw(pipeline, seed=3, size="64x64")[0].size == (64, 64)
    for change in ({"num_inference_steps": 9}, {"guidance_scale": 1.0}, {"negative_prompt": "a blue seven"}):
        assert np.abs(base - pixels(draw(pipeline, seed=3, **change)[0])).max() > 2, change


def test_many_at_once_use_both_replicas_and_are_not_mixed_up(pipeline):
    before = {replica["id"]: replica["completed"] for replica in pipeline.replicas()}
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven")
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda i: draw(pipeline, f"a green {words[i]} on grey background", seed=i)[0], range(8))
        )
    for i, image in enumerate(together):
        alone = draw(pipeline, f"a green {words[i]} on grey background", seed=i)[0]
        assert np.abs(pixels(image) - pixels(alone)).max() <= 2
    served = {
        replica["id"]: replica["completed"] - before[replica["id"]]
        for replica in eventually(
            lambda: (
                sum(one["completed"] for one in pipeline.replicas()) >= sum(before.values()) + 16
                and pipeline.replicas()
            ),
            "the replicas' own counts",
        )
    }
    assert all(count >= 4 for count in served.values()), served


def test_a_request_may_say_how_urgent_it_is(pipeline):
    assert draw(pipeline, seed=1, priority=5, deadline=30, tenant="a-team")


def test_the_models_route_names_the_served_model(pipeline):
    assert [model.id for model in client_of(pipeline.head.port).models.list()] == ["digits"]
    assert client_of(pipeline.head.port).models.retrieve("digits").id == "digits"
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client_of(pipeline.head.port).models.retrieve("other")


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        pytest.param({}, "prompt", "missing parameter", id="no prompt"),
        pytest.param({"prompt": ""}, "prompt", "at least 1", id="an empty prompt"),
        pytest.param({"prompt": "x", "n": 0}, "n", "greater than or equal to 1", id="no pictures"),
        pytest.param({"prompt": "x", "n": 11}, "n", "more than the 10 allowed", id="too many pictures"),
        pytest.param({"prompt": "x", "size": "big"}, "size", "WIDTHxHEIGHT", id="a size in words"),
        pytest.param({"prompt": "x", "size": "99999x32"}, "size", "16384", id="a size out of bounds"),
        pytest.param({"prompt": "x", "size": "33x32"}, "size", "width must be a multiple of 8", id="an odd size"),
        pytest.param({"prompt": "x", "stepz": 4}, "stepz", "unknown parameter", id="an unknown parameter"),
        pytest.param({"prompt": "x", "steps": 0}, "steps", "greater", id="no steps"),
        pytest.param({"prompt": "x", "seed": -1}, "seed", "greater", id="a negative seed"),
        pytest.param({"prompt": "x", "deadline": 0}, "deadline", "greater than 0", id="a deadline that is over"),
        pytest.param({"prompt": "x", "priority": 1000}, "priority", "less", id="a priority out of bounds"),
        pytest.param({"prompt": "x", "guidance": "high"}, "guidance", "number", id="guidance in words"),
        pytest.param({"prompt": "x", "response_format": "url"}, "response_format", "b64_json", id="pictures as links"),
        pytest.param({"prompt": "x", "model": "dall-e-3"}, "model", "no model 'dall-e-3'", id="another model"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong_as_openai_tells_it(pipeline, body, param, says):
    answer = httpx.post(f"http://127.0.0.1:{pipeline.head.port}/v1/images/generations", json=body)
    error = answer.json()["error"]
    assert answer.status_code in (400, 404)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] in (param, {"steps": "num_inference_steps", "guidance": "guidance_scale"}.get(param))
    assert says in error["message"]


def test_a_body_that_is_not_json_and_a_route_that_is_not_there_have_the_same_shape(pipeline):
    url = f"http://127.0.0.1:{pipeline.head.port}"
    headers = {"content-type": "application/json"}
    for answer, status in (
        (httpx.post(f"{url}/v1/images/generations", content="{", headers=headers), 400),
        (httpx.get(f"{url}/v1/nothing"), 404),
        (httpx.get(f"{url}/v1/images/generations"), 405),
    ):
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
        assert answer.headers["x-request-id"]


def test_the_clients_request_id_names_the_request(pipeline):
    answer = httpx.post(
        f"http://127.0.0.1:{pipeline.head.port}/v1/images/generations",
        json={"prompt": "a red one"},
        headers={"X-Request-Id": "my-own"},
        timeout=60,
    )
    assert answer.headers["x-request-id"] == "my-own"


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/startupz", "/metrics"])
def test_head_is_answered_as_get_is_but_for_the_body(pipeline, path):
    with httpx.Client(base_url=f"http://127.0.0.1:{pipeline.head.port}") as client:
        for _ in range(2):  # over one connection: a body would be taken for the next answer
            asked, got = client.head(path), client.get(path)
            assert (asked.status_code, asked.content, got.status_code) == (200, b"", 200)
            assert asked.headers["content-type"] == got.headers["content-type"]
            assert int(asked.headers["content-length"]) > 0


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


def test_a_client_that_leaves_has_its_request_aborted_and_others_go_on(pipeline):
    other = InBackground(pipeline, seed=5, **LONG)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"http://127.0.0.1:{pipeline.head.port}/v1/images/generations",
            json={"prompt": "a red one", "steps": 1000},
            headers={"X-Request-Id": "leaves"},
            timeout=1.0,
        )
    eventually(lambda: "leaves" not in [one["id"] for one in pipeline.running()], "the abort", 10)
    other.result()
    eventually(lambda: not any(one["running"] for one in pipeline.replicas()), "nothing running on the replicas", 10)


def test_a_replica_killed_under_way_costs_no_request_and_the_picture_is_the_same(pipeline):
    expected = pixels(draw(pipeline, seed=11, **LONG)[0])
    requests = [InBackground(pipeline, seed=11, **LONG) for _ in range(4)]
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
    eventually(lambda: len(pipeline.up()) == 1, "the head to notice", 5)
    assert time.monotonic() - began < 5.0, "before the heartbeat timeout"
    assert draw(pipeline)


def test_sigterm_drains_a_replica_under_way(pipeline):
    requests = [InBackground(pipeline, seed=i, **LONG) for i in range(4)]
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
    request = InBackground(pipeline, seed=1, **LONG)
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
        timeout=120,
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
