"""Requests for an answer to a conversation: what counts as absent, and that reasons name the field and are true."""

import json

import openai
import pytest
from openai.types.chat import ChatCompletionMessage

from omni_worker.api.chat.schemas import ChatRequest
from omni_worker.errors import CONTEXT_LENGTH_EXCEEDED, RequestError
from omni_worker.orchestrator.handover import TEXT
from omni_worker.requests import GenerationParams
from tests.worker.api.in_process import PAINTER, WRITER, Head, client_of

URL, ASKED = "/v1/chat/completions", {"role": "user", "content": "two plus five"}


@pytest.fixture(scope="module")
def head():
    return Head([WRITER, PAINTER])


@pytest.fixture(scope="module")
def client(head):
    with client_of(head) as client:
        yield client


def post(client, *messages, **fields):
    return client.post(URL, json={"messages": list(messages) or [ASKED]} | fields)


def error_of(response):
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_sampling_fields_reach_the_stage():
    asked = {"temperature": 0.5, "top_p": 0.9, "top_k": 4, "min_p": 0.1, "repetition_penalty": 1.3}
    sampling = ChatRequest.model_validate({"messages": [ASKED]} | asked).sampling
    assert {name: getattr(sampling, name) for name in asked} == asked


# ---- what counts as absent


def test_an_answer_can_be_sent_back_as_the_official_client_gives_it(client, head):
    answer = post(client).json()["choices"][0]["message"]
    message = ChatCompletionMessage.model_validate(answer)
    for sent in (answer, message.model_dump(), message.to_dict(), message.model_dump(exclude_none=True)):
        response = post(client, ASKED, sent, ASKED)
        assert response.status_code == 200, response.text
        assert [one.content for one in head.replicas[0].received[-1].messages] == [
            "two plus five", "a red three", "two plus five",
        ]  # fmt: skip


@pytest.mark.parametrize("modalities", [["image"], ["text", "image"]])
def test_an_answer_with_an_image_can_be_sent_back(client, modalities):
    answer = post(client, modalities=modalities).json()["choices"][0]["message"]
    response = post(client, ASKED, answer, ASKED)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "field",
    ["refusal", "audio", "tool_calls", "function_call", "annotations", "name", "reasoning_content", "tool_call_id"],
)
def test_null_fields_of_a_message_count_as_absent(client, field):
    assert post(client, ASKED, {"role": "assistant", "content": "x", field: None}, ASKED).status_code == 200


@pytest.mark.parametrize("neutral", [{"tool_calls": []}, {"annotations": []}, {"refusal": ""}])
def test_neutral_fields_of_a_message_count_as_absent(client, neutral):
    assert post(client, ASKED, {"role": "assistant", "content": "x"} | neutral, ASKED).status_code == 200


def test_a_refusal_is_the_text_of_a_message_without_content(client, head):
    parts = [{"type": "refusal", "refusal": "I cannot"}]
    for message in ({"content": None, "refusal": "I cannot"}, {"refusal": "I cannot"}, {"content": parts}):
        assert post(client, ASKED, {"role": "assistant"} | message, ASKED).status_code == 200
        assert head.replicas[0].received[-1].messages[1].content == "I cannot"


OPENAI_FIELDS = [
    "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "response_format", "logit_bias",
    "metadata", "store", "service_tier", "reasoning_effort", "verbosity", "prediction", "audio", "web_search_options",
    "prompt_cache_key", "stream_options", "stop", "n", "seed", "user", "temperature", "top_p", "max_tokens",
    "min_p", "repetition_penalty", "modalities", "max_completion_tokens", "logprobs", "top_logprobs",
    "presence_penalty", "frequency_penalty", "stream", "model", "priority", "size", "negative_prompt",
    "num_inference_steps", "a_field_of_tomorrow",
]  # fmt: skip


@pytest.mark.parametrize("field", OPENAI_FIELDS)
def test_null_parameters_count_as_absent(client, field):
    assert post(client, **{field: None}).status_code == 200


@pytest.mark.parametrize(
    "neutral",
    [
        {"tools": []}, {"tool_choice": "none"}, {"tool_choice": "auto"}, {"functions": []}, {"function_call": "none"},
        {"parallel_tool_calls": True}, {"response_format": {"type": "text"}}, {"logit_bias": {}}, {"metadata": {}},
        {"store": False}, {"service_tier": "auto"}, {"top_logprobs": 0}, {"logprobs": False}, {"presence_penalty": 0},
        {"frequency_penalty": 0.0}, {"stop": []}, {"stop": ""}, {"stream_options": {}}, {"n": 1}, {"stream": False},
        {"stream_options": {"include_usage": None}}, {"stream_options": {"include_usage": False}},
        {"stream_options": {"include_obfuscation": False}, "stream": True}, {"reasoning_effort": "none"},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_neutral_parameters_count_as_absent(client, neutral):
    assert post(client, **neutral).status_code == 200


# ---- reasons


def part(**fields):
    return {"role": "user", "content": [{"type": "text", "text": "x"}, fields]}


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stop": ["a", 5]}, "stop.1", "valid string"),
        ({"stop": 5}, "stop", "valid string"),
        ({"stop": ["a" * 1001]}, "stop.0", "at most 1000"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [ASKED] * 1001}, "messages", "at most 1000"),
        ({"messages": [part(type="image_url", image_url={"url": "data:,", "detail": "medium"})]},
         "messages.0.content.1.image_url.detail", "'auto'"),
        ({"messages": [part(type="image_url", image_url={})]}, "messages.0.content.1.image_url.url", "missing"),
        ({"messages": [part(type="image_url")]}, "messages.0.content.1.image_url", "missing"),
        ({"messages": [part(type="text", text=5)]}, "messages.0.content.1.text", "valid string"),
        ({"messages": [part(type="text", text="x", size=5)]}, "messages.0.content.1.size", "unknown parameter"),
        ({"messages": [part(type="input_audio")]}, "messages.0.content.1.type", "'text', 'image_url', 'refusal'"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages.0.content.0.type", "'text', 'image_url'"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "valid string"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content", "at least 1"),
        ({"messages": [{"role": "user", "content": "x" * 1_000_001}]}, "messages.0.content", "at most 1000000"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "'assistant'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing"),
        ({"messages": [ASKED, {"role": "assistant", "content": None}, ASKED]}, "messages.1.content", "missing"),
        ({"messages": [ASKED, {"role": "assistant", "content": "x", "tool_calls": [{}]}, ASKED]},
         "messages.1.tool_calls", "not support"),
        ({"messages": "hello"}, "messages", "valid"),
        ({"messages": None}, "messages", "missing parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "not support"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not support"),
        ({"logit_bias": {"50256": -100}}, "logit_bias", "not support"),
        ({"stepz": 4}, "stepz", "unknown parameter"),
        ({"steps": 0}, "steps", "greater"),
        ({"num_inference_steps": 0}, "num_inference_steps", "greater"),
        ({"num_inference_steps": 4, "steps": 4}, "steps", "the same as num_inference_steps"),
        ({"steps": 2000, "modalities": ["image"]}, "steps", "more than the 1000"),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "boolean"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"min_p": 2}, "min_p", "less than or equal to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty", "greater than or equal to 0.1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)  # fmt: skip
def test_a_reason_names_the_field_as_the_client_wrote_it_and_is_true(client, fields, param, says):
    error = error_of(client.post(URL, json={"messages": [ASKED]} | fields))
    assert error["param"] == param
    assert says in error["message"]
    assert param in error["message"]


@pytest.mark.parametrize(
    ("body", "type", "says"),
    [
        (None, "application/json", "the body is empty"),
        (b"", "application/json", "the body is empty"),
        (b"null", "application/json", "must be a JSON object"),
        (b"[]", "application/json", "must be a JSON object"),
        (b"5", "application/json", "must be a JSON object"),
        (b'"x"', "application/json", "must be a JSON object"),
        (b"{", "application/json", "not JSON"),
        (b"{}", "text/plain", "Content-Type: application/json"),
    ],
)
def test_a_body_that_is_no_object_is_named(client, body, type, says):
    error = error_of(client.post(URL, content=body, headers={"Content-Type": type}))
    assert error["param"] is None
    assert says in error["message"]


def test_many_unknown_keys_are_one_error(client):
    error = error_of(client.post(URL, json={"messages": [ASKED]} | {f"x{i}": i for i in range(500)}))
    assert error["param"] == "x0"


@pytest.mark.parametrize(
    ("sent", "raised", "param", "starts"),
    [
        ({"max_tokens": 600}, "max_tokens", "max_tokens", "max_tokens: 600"),
        ({"max_completion_tokens": 600}, "max_tokens", "max_completion_tokens", "max_completion_tokens: 600"),
        ({}, "prompt", "messages", "messages: 600"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_reasons_of_a_stage_have_the_names_of_the_request(
    client, head, monkeypatch, sent, raised, param, starts, stream
):
    async def refuse(id, params: GenerationParams, *rest):
        raise RequestError("invalid", f"{raised}: 600 is too many", raised, code=CONTEXT_LENGTH_EXCEEDED)

    monkeypatch.setattr(head.replicas[0], "generate", refuse)
    error = error_of(post(client, stream=stream, modalities=[TEXT], **sent))
    assert (error["param"], error["code"]) == (param, "context_length_exceeded")
    assert error["message"].startswith(starts)


def test_the_official_client_raises_the_code(client, head, monkeypatch):
    async def refuse(id, params: GenerationParams, *rest):
        raise RequestError("invalid", "the prompt has 600 tokens", "messages", code=CONTEXT_LENGTH_EXCEEDED)

    monkeypatch.setattr(head.replicas[0], "generate", refuse)
    official = openai.OpenAI(base_url="http://head/v1", api_key="x", max_retries=0, http_client=client)
    with pytest.raises(openai.BadRequestError) as caught:
        official.chat.completions.create(model="tiny", messages=[ASKED])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


# ---- texts that are not Unicode

HALF = "\\ud83d"


@pytest.mark.parametrize(
    "fields",
    [
        f'"stop": "{HALF}"',
        f'"stop": ["a", "{HALF}"], "stream": true',
        f'"negative_prompt": "a{HALF}b"',
        f'"user": "{HALF}"',
        f'"model": "{HALF}"',
        f'"size": "{HALF}"',
        f'"unknown": {{"a": ["{HALF}"]}}',
        f'"messages": [{{"role": "user", "content": "a {HALF}"}}]',
        f'"messages": [{{"role": "user", "content": [{{"type": "text", "text": "{HALF}"}}]}}]',
        f'"messages": [{{"role": "user", "name": "{HALF}", "content": "a"}}]',
        f'"{HALF}": 1',
        '"user": "\\udc00"',
        '"user": "\\ud83d\\u0041"',
    ],
)
def test_half_a_surrogate_pair_is_refused_wherever_it_is(client, fields):
    body = '{"messages": [{"role": "user", "content": "x"}], ' + fields + "}"
    error = error_of(client.post(URL, content=body.encode(), headers={"Content-Type": "application/json"}))
    assert "half of a surrogate pair" in error["message"]


def test_a_whole_pair_is_a_text(client, head):
    body = b'{"messages": [{"role": "user", "content": "\\ud83d\\ude00"}]}'
    assert client.post(URL, content=body, headers={"Content-Type": "application/json"}).status_code == 200
    assert head.replicas[0].received[-1].messages[0].content == "😀"
