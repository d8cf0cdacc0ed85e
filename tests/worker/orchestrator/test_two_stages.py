"""Thinker and painter over HTTP with real processes. An independent classifier checks the images."""

import base64
import io
import itertools
import json
import signal

import openai
import pytest
from PIL import Image

from omni_worker.models.digits_reader import Reading, read
from tests.worker.serving import Pipeline, client_of, eventually

SUMS = {
    "two plus five, in blue": Reading(7, "blue", "black"),
    "nine minus three, in red on grey": Reading(6, "red", "grey"),
    "what is 1 + 0 in green?": Reading(1, "green", "black"),
}


def stages(input: str) -> list[dict]:
    return [
        {"id": 0, "name": "thinker", "engine": "autoregressive"},
        {"id": 1, "name": "painter", "engine": "diffusion", "input": input},
    ]


@pytest.fixture(scope="module", params=["hidden-states", "text"])
def pipeline(request):
    pipeline = Pipeline(stages=stages(request.param))
    try:
        pipeline.add_stage(0)
        pipeline.add_stage(1)
        eventually(pipeline.head.is_ready, "both stages up")
        yield pipeline
    finally:
        pipeline.close()


def picture(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


def ask(pipeline: Pipeline, text: str, **more):
    return client_of(pipeline.head.port).chat.completions.create(
        model="digits", messages=[{"role": "user", "content": text}], **more
    )


@pytest.mark.parametrize("asked", SUMS)
def test_a_sum_becomes_the_picture_of_its_result(pipeline, asked):
    answer = client_of(pipeline.head.port).images.generate(prompt=asked, extra_body={"seed": 1})
    assert read(picture(answer.data[0].b64_json)) == SUMS[asked]
    assert answer.data[0].revised_prompt.startswith("a")


def test_the_thinker_answers_alone_where_only_text_is_wanted(pipeline):
    answer = ask(pipeline, "two plus five, in blue", modalities=["text"])
    assert answer.choices[0].message.content == "a blue seven on black background"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens >= 6


@pytest.mark.parametrize(
    ("length", "count", "reason"),
    [
        (200, 1, "tokens"),
        (70_000, 1, "tokens"),
        (40_000, 2, "1120000 characters are more than the 1000000 allowed"),
    ],
)
def test_a_conversation_that_is_too_long_is_rejected(pipeline, length, count, reason):
    messages = [{"role": "user", "content": "two plus five " * length}] * count
    with pytest.raises(openai.BadRequestError, match=reason) as refusal:
        client_of(pipeline.head.port).chat.completions.create(model="digits", messages=messages, modalities=["text"])
    assert (refusal.value.code, refusal.value.param) == ("context_length_exceeded", "messages")


def test_text_and_picture_come_together(pipeline):
    answer = ask(pipeline, "nine minus three, in red on grey", modalities=["text", "image"], seed=5)
    text, image = answer.choices[0].message.content
    assert text == {"type": "text", "text": "a red six on grey background"}
    assert read(picture(image["image_url"]["url"])) == Reading(6, "red", "grey")


def test_text_is_told_as_it_is_written_and_the_picture_at_the_end(pipeline):
    pieces, images, ends = [], [], []
    for chunk in ask(pipeline, "two plus five, in blue", modalities=["text", "image"], stream=True):
        (choice,) = chunk.choices
        if isinstance(choice.delta.content, list):
            images += choice.delta.content
        elif choice.delta.content:
            assert not images
            pieces.append(choice.delta.content)
        ends.append(choice.finish_reason)
    assert "".join(pieces) == "a blue seven on black background"
    assert read(picture(images[0]["image_url"]["url"])) == Reading(7, "blue", "black")
    assert ends[-1] == "stop"


@pytest.mark.parametrize("most", [1, 2, 4])
def test_an_answer_that_is_cut_short_is_told_to_its_last_token(pipeline, most):
    stream = ask(pipeline, "two plus five, in blue", modalities=["text"], stream=True, max_tokens=most, logprobs=True)
    chunks = [chunk.choices[0] for chunk in stream]
    text = "".join(choice.delta.content or "" for choice in chunks)
    assert text.split() == ["a", "blue", "seven", "on", "black", "background"][:most]
    assert chunks[-1].finish_reason == "length"
    assert sum(len(choice.logprobs.content) for choice in chunks if choice.logprobs) == most


def test_several_choices_and_probabilities(pipeline):
    answer = ask(pipeline, "one plus one, in red", modalities=["text"], n=2, logprobs=True, top_logprobs=3)
    assert [choice.index for choice in answer.choices] == [0, 1]
    first = answer.choices[0].logprobs.content
    assert "".join(one.token for one in first).strip().startswith("a")
    assert all(len(one.top_logprobs) == 3 and one.logprob <= 0 for one in first)


def test_a_failure_names_its_stage_and_reaches_no_other_request(pipeline):
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(pipeline, "one plus one " * 3000, modalities=["text", "image"])
    assert refusal.value.body["stage"] == "thinker"
    assert ask(pipeline, "one plus one, in red", modalities=["text"]).choices[0].message.content == (
        "a red two on black background"
    )


def test_a_thinker_that_dies_takes_no_request_with_it(pipeline):
    second = pipeline.add_stage(0)
    eventually(lambda: len([one for one in pipeline.up() if one["stage"] == "thinker"]) == 2, "two thinkers")
    expected = [f"a red {digit} on black background" for digit in ("two", "three", "four")]
    asked = [f"one plus {number}, in red" for number in ("one", "two", "three")]
    killed = False
    for number, (question, answer) in enumerate(
        itertools.islice(itertools.cycle(zip(asked, expected, strict=True)), 30)
    ):
        if number == 10:
            second.popen.send_signal(signal.SIGKILL)
            killed = True
        stream = ask(pipeline, question, modalities=["text"], stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == answer
    assert killed


def test_the_topology_shows_the_stages_and_their_replicas(pipeline):
    thinker, painter = pipeline.head.get("/v1/omni/topology").json()["stages"]
    assert (thinker["name"], thinker["engine"], thinker["input"]) == ("thinker", "autoregressive", None)
    assert (painter["name"], painter["task"], painter["input"]) == ("painter", None, pipeline.stages[1]["input"])
    assert painter["pipeline"] == "QwenImagePipeline"
    assert [replica["state"] for replica in painter["replicas"]] == ["UP"]

    def completed() -> int:
        return pipeline.head.get("/v1/omni/topology").json()["stages"][1]["replicas"][0]["completed"]

    eventually(lambda: completed() > 0, "the painter's report of what it completed")


def test_the_stages_count_the_tokens_and_pictures_that_they_made(pipeline):
    def counts() -> dict[str, tuple[int, int]]:
        stages = pipeline.head.get("/v1/omni/topology").json()["stages"]
        return {stage["name"]: (stage["tokens"], stage["images"]) for stage in stages}

    before = counts()
    answer = ask(pipeline, "nine minus three, in red on grey", modalities=["text", "image"], n=2)
    after = counts()
    grown = {name: tuple(now - then for now, then in zip(after[name], before[name], strict=True)) for name in after}
    assert grown == {"thinker": (answer.usage.completion_tokens, 0), "painter": (0, 2)}
    tokens, _ = after["thinker"]
    assert f'omni_stage_tokens_total{{stage="thinker"}} {float(tokens)}' in pipeline.head.get("/metrics").text


def test_each_request_leaves_a_line_in_the_log_and_counts_at_its_stages(pipeline):
    answer = client_of(pipeline.head.port).images.with_raw_response.generate(prompt="one plus one, in red")
    id = answer.headers["x-request-id"]
    (line,) = [json.loads(line) for line in pipeline.head.log.splitlines() if line.startswith("{") and id in line]
    assert (line["event"], line["outcome"]) == ("request", "completed")
    assert [visit["stage"] for visit in line["stages"]] == ["thinker", "painter"]
    assert all(visit["replicas"] and visit["seconds"] > 0 for visit in line["stages"])
    metrics = pipeline.head.get("/metrics").text
    for name in ("omni_stage_seconds_count", "omni_stage_dispatch_wait_seconds_count"):
        assert f'{name}{{stage="painter"}}' in metrics
    assert 'omni_replica_heartbeat_age_seconds{replica="0",stage="thinker"}' in metrics
    assert 'omni_replica_state{replica="0",stage="painter",state="UP"} 1.0' in metrics
