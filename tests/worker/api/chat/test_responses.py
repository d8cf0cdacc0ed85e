"""What answers to a conversation contain, whole and streamed: usage, logprobs, seeds."""

import json

import pytest

from omni_worker.requests import SEED_LIMIT, Completion, GeneratedText, token_logprob
from tests.worker.api.in_process import PAINTER, WRITER, Head, client_of

URL, ASKED = "/v1/chat/completions", [{"role": "user", "content": "two plus five"}]
PIECES = (b"caf", b"\xc3", b"\xa9", b"</s>")
"""Tokens: two of them are the halves of a character, and the last one is the end, which has no text."""
LOGPROBS = [token_logprob(raw, -0.5, [raw, b"\xff"], [-0.5, -1.5]) for raw in PIECES]


@pytest.fixture(scope="module")
def head():
    head = Head([WRITER, PAINTER])
    written = GeneratedText(text="café", tokens=[1, 2, 3, 4], logprobs=LOGPROBS)
    head.replicas[0].completion = Completion(written=written, finish_reason="stop", prompt_tokens=9)
    head.replicas[0].partials = [
        GeneratedText(text="caf", tokens=[1], logprobs=LOGPROBS[:1]),
        GeneratedText(text="", tokens=[2], logprobs=LOGPROBS[1:2]),
        GeneratedText(text="é", tokens=[3], logprobs=LOGPROBS[2:3]),
    ]
    return head


@pytest.fixture(scope="module")
def client(head):
    with client_of(head) as client:
        yield client


def ask(client, **fields):
    response = client.post(URL, json={"messages": ASKED} | fields)
    assert response.status_code == 200, response.text
    return response.json()


def stream(client, **fields):
    """The chunks of a stream."""
    response = client.post(URL, json={"messages": ASKED, "stream": True} | fields)
    assert response.status_code == 200, response.text
    *events, last = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert last == "[DONE]"
    return [json.loads(event) for event in events]


@pytest.mark.parametrize("n", [1, 3])
def test_usage_counts_the_prompt_once_and_every_token_that_was_generated(client, n):
    expected = {"prompt_tokens": 9, "completion_tokens": 4 * n, "total_tokens": 9 + 4 * n}
    assert ask(client, n=n)["usage"] == expected
    *chunks, last = stream(client, n=n, stream_options={"include_usage": True})
    assert (last["choices"], last["usage"]) == ([], expected)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert all("usage" not in chunk for chunk in stream(client, n=n))


def test_images_count_the_prompt_once_too(client):
    body = {"prompt": "two plus five", "n": 2}
    usage = client.post("/v1/images/generations", json=body).json()["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (9, 8, 17)


def test_logprobs_have_the_bytes_of_the_tokens_themselves(client):
    answer = ask(client, logprobs=True, top_logprobs=2)["choices"][0]
    content = answer["logprobs"]["content"]
    assert [bytes(entry["bytes"]) for entry in content] == list(PIECES)
    assert b"".join(bytes(entry["bytes"]) for entry in content[:-1]).decode() == answer["message"]["content"]
    assert [bytes(one["bytes"]) for one in content[1]["top_logprobs"]] == [b"\xc3", b"\xff"]
    assert content[1]["token"] == "\ufffd"


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_reports_the_logprobs_of_all_tokens(client, n):
    chunks = stream(client, logprobs=True, n=n)
    for index in range(n):
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        content = [entry for choice in choices if choice.get("logprobs") for entry in choice["logprobs"]["content"]]
        assert [bytes(entry["bytes"]) for entry in content] == list(PIECES)
        assert choices[-1]["finish_reason"] == "stop"
    assert all("logprobs" not in chunk["choices"][0] for chunk in stream(client))


@pytest.mark.parametrize("seed", [-1, 0, 7, -(2**63), 2**63 - 1])
def test_every_seed_of_64_bits_is_valid(client, head, seed):
    for _ in range(2):
        ask(client, seed=seed, n=2)
    used = [params.seed for params in head.replicas[0].received[-4:]]
    assert used[:2] == used[2:], "the same seed, the same answers"
    assert used == [seed % SEED_LIMIT, (seed + 1) % SEED_LIMIT] * 2


@pytest.mark.parametrize("seed", [-(2**63) - 1, 2**63, "7", 1.5])
def test_other_seeds_are_refused(client, seed):
    response = client.post(URL, json={"messages": ASKED, "seed": seed})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "seed"
