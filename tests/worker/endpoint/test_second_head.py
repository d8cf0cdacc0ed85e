"""A pipeline whose first stage is another pipeline's API: real processes, and the official client."""

import base64
import io
import json
import secrets
import signal

import openai
import pytest
from PIL import Image

from omni_worker.models.digits_reader import Reading, read
from tests.worker.serving import Process, client_of, eventually, free_ports

pytestmark = pytest.mark.processes
QUESTION = "two plus five, in blue"
ANSWER = "a blue seven on black background"


def head(*flags: str) -> Process:
    """A head with one replica."""
    api, master, router, pub, data = free_ports(5)
    return Process(
        "builtin://digits", "--host", "127.0.0.1", "--port", str(api), "--omni-master-port", str(master),
        "--omni-coordinator-port", str(router), "--omni-coordinator-pub-port", str(pub),
        "--omni-replica-port", str(data), *flags, port=api,
    )  # fmt: skip


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "key"
    file.write_text(secrets.token_hex(16))
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def stage_key(key_file):
    """The same key, in the file of the stage."""
    file = key_file.with_name("stage-key")
    file.write_text(key_file.read_text())
    return file


@pytest.fixture(scope="module")
def server(key_file):
    """The language model, under the name `thinker`, for those with the key."""
    process = head("--engine", "autoregressive", "--served-model-name", "thinker", "--api-key-file", str(key_file))
    yield process
    process.close()


@pytest.fixture(scope="module")
def pipeline(server, stage_key, tmp_path_factory):
    """A painter behind that server."""
    endpoint = {
        "url": f"http://127.0.0.1:{server.port}/v1", "model": "thinker", "api_key_file": str(stage_key), "retries": 1,
    }  # fmt: skip
    stages = [
        {"id": 1, "name": "thinker", "engine": "openai", "endpoint": endpoint},
        {"id": 0, "name": "painter", "engine": "diffusion", "input": "text"},
    ]
    file = tmp_path_factory.mktemp("stages") / "stages.json"
    file.write_text(json.dumps({"stages": stages}))
    process = head("--stage-config", str(file), "--served-model-name", "digits")
    try:
        eventually(server.is_ready, "the server is ready")
        eventually(process.is_ready, "the pipeline is ready")
        eventually(lambda: thinker(process)["replicas"][0]["state"] == "UP", "the server is known to be up")
        yield process
    finally:
        process.close()


def thinker(process: Process) -> dict:
    """The first stage of the topology."""
    return process.get("/v1/omni/topology").json()["stages"][0]


def ask(process: Process, text: str = QUESTION, **more):
    return client_of(process.port).chat.completions.create(
        model="digits",
        messages=[{"role": "user", "content": text}],
        modalities=more.pop("modalities", ["text"]),
        **more,
    )


def test_the_server_writes_the_prompt_and_the_painter_paints_it(pipeline):
    answer = client_of(pipeline.port).images.generate(prompt=QUESTION, extra_body={"seed": 1})
    image = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))
    assert read(image) == Reading(7, "blue", "black")
    assert answer.data[0].revised_prompt == ANSWER


def test_text_alone_is_the_servers_answer_with_its_counts(pipeline, server, key_file):
    answer = ask(pipeline)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=key_file.read_text())
    own = client.chat.completions.create(model="thinker", messages=[{"role": "user", "content": QUESTION}])
    assert answer.choices[0].message.content == own.choices[0].message.content == ANSWER
    assert (answer.usage, answer.choices[0].finish_reason) == (own.usage, "stop")
    assert thinker(pipeline)["tokens"] >= answer.usage.completion_tokens


def test_text_is_streamed_and_the_picture_comes_at_the_end(pipeline):
    pieces, images = [], []
    for chunk in ask(pipeline, modalities=["text", "image"], stream=True):
        content = chunk.choices[0].delta.content
        if isinstance(content, list):
            images += content
        elif content:
            assert not images
            pieces.append(content)
    assert "".join(pieces) == ANSWER
    assert len(pieces) > 1
    assert len(images) == 1


def test_sampling_parameters_and_probabilities_reach_the_server(pipeline):
    answer = ask(pipeline, max_tokens=2, logprobs=True, top_logprobs=3, n=2, stop=["never"])
    assert [choice.message.content.split() for choice in answer.choices] == [ANSWER.split()[:2]] * 2
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage.completion_tokens == 4
    first = answer.choices[0].logprobs.content
    assert len(first) == 2
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in first)


def test_what_the_server_refuses_names_the_stage_and_the_server(pipeline, server):
    with pytest.raises(openai.BadRequestError, match="answered 400") as refusal:
        ask(pipeline, "one plus one " * 3000)
    assert f"http://127.0.0.1:{server.port}/v1" in str(refusal.value)
    assert (refusal.value.body["stage"], refusal.value.code) == ("thinker", "context_length_exceeded")


def test_the_topology_shows_the_server(pipeline, server):
    stage = thinker(pipeline)
    url = f"http://127.0.0.1:{server.port}/v1"
    assert (stage["engine"], stage["pipeline"]) == ("openai", "thinker")
    assert stage["endpoint"] == {"url": url, "model": "thinker", "problem": None}
    assert [replica["address"] for replica in stage["replicas"]] == [url]
    assert 'omni_stage_ready{stage="thinker"} 1.0' in pipeline.get("/metrics").text


def test_a_client_that_leaves_ends_the_request_at_the_server(pipeline, server, key_file):
    def running() -> bool:
        headers = {"Authorization": f"Bearer {key_file.read_text()}"}
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/omni", api_key=key_file.read_text())
        return bool(client.get("/requests", cast_to=dict, options={"headers": headers})["requests"])

    stream = ask(pipeline, stream=True)
    next(iter(stream))
    stream.close()
    eventually(lambda: not running(), "the server has no request left", 30)
    eventually(lambda: not pipeline.get("/omni/requests").json()["requests"], "nor has the pipeline", 30)


def test_a_wrong_key_is_told_and_a_new_one_needs_no_restart(pipeline, stage_key):
    right = stage_key.read_text()
    stage_key.write_text("wrong")
    with pytest.raises(openai.InternalServerError, match="Incorrect API key"):
        ask(pipeline)
    stage_key.write_text(right)
    assert ask(pipeline).choices[0].message.content == ANSWER


def test_a_server_that_is_gone_is_named_and_found_again(pipeline, server):
    server.stop(signal.SIGKILL)
    with pytest.raises(openai.APIStatusError, match="cannot be reached") as refusal:
        ask(pipeline)
    assert refusal.value.status_code == 503
    eventually(lambda: thinker(pipeline)["endpoint"]["problem"], "the topology says so", 60)
    assert pipeline.is_ready()
    assert 'omni_stage_ready{stage="thinker"} 0.0' in pipeline.get("/metrics").text
    server.start()
    eventually(lambda: thinker(pipeline)["endpoint"]["problem"] is None, "the server is found again")
    assert ask(pipeline).choices[0].message.content == ANSWER
