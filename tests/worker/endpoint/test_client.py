"""A stage's server that answers well, badly, late, or not at all."""

import asyncio

import pytest

from omni_worker.endpoint import client as client_module
from omni_worker.endpoint import http
from omni_worker.errors import RequestError
from omni_worker.replica.wire.messages import Partial, Trace
from omni_worker.requests import GenerationParams, Message, SamplingParams
from tests.worker.endpoint.scripted_server import (
    OK_STREAM,
    answer,
    as_json,
    chunk,
    client_of,
    endless,
    raw,
    serving,
    stream_of,
)
from tests.worker.orchestrator.pools import in_loop

PARAMS = GenerationParams(prompt="a fox", seed=7)
STREAMED = GenerationParams(prompt="a fox", stream=True)
BUSY = as_json(429, {"error": {"message": "come later"}}, Retry_After="0.01")
BROKEN = as_json(500, {"error": {"message": "CUDA error"}})
NO_TEXT = raw(OK_STREAM + b"data: [DONE]\n\n")


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(client_module, "FIRST_PAUSE_SECONDS", 0.01)


async def texts_of(client, params=PARAMS):
    """The text of the answer, and the pieces that were passed on."""
    updates = []
    result = await client.generate("r#1", params, updates.append)
    pieces = [update.written.text for update in updates if isinstance(update, Partial)]
    return result.completion.written.text, pieces


async def refusal_of(*replies, params=PARAMS, **settings):
    """The error of a request, and how often the server was called."""
    async with serving(*replies) as server, client_of(server, **settings) as client:
        with pytest.raises(RequestError) as refusal:
            await client.generate("r#1", params, lambda update: None)
        assert f"the server of stage 'rewriter' ({server.url})" in refusal.value.message
        assert client.in_flight == 0
        return refusal.value, len(server.calls)


@in_loop
async def test_the_request_is_sent_as_a_chat_completion():
    sampling = SamplingParams(
        max_tokens=9, temperature=0.5, top_p=0.9, top_k=3, min_p=0.1, repetition_penalty=1.2, stop=("END",)
    )
    params = GenerationParams(
        prompt="x", seed=7, sampling=sampling, messages=(Message(role="system", content="Be brief."),)
    )
    async with serving(answer("hi")) as server, client_of(server) as client:
        await client.generate("r#3", params, lambda update: None, True, Trace("r", "rewriter", {"traceparent": "00-1"}))
    (call,) = server.calls
    assert call.path == "/v1/chat/completions"
    assert call.body == {
        "model": "writer", "messages": [{"role": "system", "content": "Be brief."}], "seed": 7, "stream": True,
        "stream_options": {"include_usage": True}, "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 3,
        "min_p": 0.1, "repetition_penalty": 1.2, "stop": ["END"],
    }  # fmt: skip
    assert call.headers["x-request-id"] == "r"
    assert call.headers["traceparent"] == "00-1"
    assert "authorization" not in call.headers


@in_loop
async def test_what_is_not_asked_for_is_left_to_the_server():
    async with serving(answer("hi")) as server, client_of(server) as client:
        await client.generate("r", PARAMS, lambda update: None)
    assert server.calls[0].body.keys() == {"model", "messages", "seed", "stream", "stream_options"}
    assert server.calls[0].body["messages"] == [{"role": "user", "content": "a fox"}]


@in_loop
async def test_an_answer_has_its_text_and_counts():
    async with serving(answer("a red ", "fox", finish_reason="length")) as server, client_of(server) as client:
        result = await client.generate("r", PARAMS, lambda update: None)
    completion = result.completion
    assert (completion.written.text, completion.finish_reason) == ("a red fox", "length")
    assert (completion.prompt_tokens, completion.token_count, result.steps) == (5, 7, 7)
    assert (client.completed, client.pieces) == (1, 2)


@in_loop
async def test_pieces_are_passed_on_only_where_the_client_streams():
    async with serving(answer("a ", "fox")) as server, client_of(server) as client:
        assert await texts_of(client) == ("a fox", [])
        assert await texts_of(client, STREAMED) == ("a fox", ["a ", "fox"])


@in_loop
async def test_probabilities_come_with_the_bytes_of_their_tokens():
    top = [{"token": "�", "logprob": -0.5, "bytes": [240]}, {"token": "b", "logprob": -2}]
    one = chunk("a", logprobs={"content": [{"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": top}]})
    reply = raw(OK_STREAM + one + chunk(None, "stop"))
    params = GenerationParams(prompt="x", sampling=SamplingParams(logprobs=2))
    async with serving(reply) as server, client_of(server) as client:
        result = await client.generate("r", params, lambda update: None)
    assert (server.calls[0].body["logprobs"], server.calls[0].body["top_logprobs"]) == (True, 2)
    (token,) = result.completion.written.logprobs
    assert (token.token, token.raw, token.likeliest_raw) == ("a", b"a", (b"\xf0", b"b"))
    assert result.completion.token_count == 1


@in_loop
async def test_reasoning_keep_alives_and_empty_pieces_are_no_text():
    thinking = b'data: {"choices":[{"index":0,"delta":{"content":null,"reasoning_content":"hm"}}]}\r\n\r\n'
    reply = raw(OK_STREAM + b": ping\n\n" + thinking + chunk("") + chunk("fox") + chunk(None, "stop"))
    async with serving(reply) as server, client_of(server) as client:
        assert await texts_of(client, STREAMED) == ("fox", ["fox"])


@pytest.mark.parametrize("failure", [BROKEN, BUSY, raw(b""), raw(OK_STREAM + chunk("a")), NO_TEXT])
@in_loop
async def test_a_call_that_fails_is_made_again_with_the_same_seed(failure):
    async with serving(failure, answer("fox")) as server, client_of(server) as client:
        assert (await texts_of(client))[0] == "fox"
    first, second = server.calls
    assert first.body == second.body


@in_loop
async def test_what_was_passed_on_is_not_asked_for_again():
    error, calls = await refusal_of(raw(OK_STREAM + chunk("a ") + chunk("fox")), params=STREAMED)
    assert calls == 1
    assert error.kind == "unavailable"
    assert "closed the connection before the end of its answer, after 2 pieces" in error.message


@pytest.mark.parametrize(
    ("reply", "kind", "said", "calls"),
    [
        (BROKEN, "failed", "answered 500: CUDA error (in the last of 3 tries)", 3),
        (as_json(503, {"detail": "loading"}), "unavailable", "answered 503: loading", 3),
        (as_json(400, {"error": {"message": "no such role"}}), "invalid", "answered 400: no such role", 1),
        (as_json(404, {"error": "no model x"}), "failed", "answered 404: no model x", 1),
        (as_json(401, {"error": {"message": "who?"}}), "failed", "answered 401: who?", 1),
        (as_json(302, {}, Location="http://127.0.0.1:1/"), "failed", "answered 302; redirects are not followed", 1),
        (raw(b"HTTP/1.1 502 X\r\n\r\n<html>\n  <b>\x1b[31mBad"), "failed", "answered 502: <html> <b> [31mBad", 3),
        (raw(b"HTTP/1.1 200 X\r\nContent-Type: text/html\r\n\r\nhello"), "failed", "answered with text/html", 1),
        (raw(OK_STREAM + b"data: hello\n\n"), "failed", "no chunk of a chat completion", 3),
        (raw(OK_STREAM + b"data: " + b"[" * 9999 + b"\n\n"), "failed", "no chunk of a chat completion", 3),
        (raw(OK_STREAM + b'data: {"error": {"message": "died", "code": 500}}\n\n'), "failed", "failed: died", 3),
        (raw(OK_STREAM + b'data: {"error": {"message": "bad", "code": 400}}\n\n'), "invalid", "failed: bad", 1),
        (raw(OK_STREAM + chunk(None, "content_filter")), "failed", "its finish_reason is 'content_filter'", 1),
        (raw(OK_STREAM.replace(b"Connection", b"Content-Encoding: gzip\r\nC")), "failed", "content encoding 'gzip'", 1),
        (raw(b"not HTTP\r\n\r\n"), "unavailable", "closed the connection", 3),
    ],
)  # fmt: skip
@in_loop
async def test_an_error_says_what_the_server_said(reply, kind, said, calls):
    error, made = await refusal_of(reply)
    assert (error.kind, made) == (kind, calls)
    assert said in error.message
    assert len(error.message) < 1500
    assert error.message.isprintable()


@pytest.mark.parametrize("code", ["context_length_exceeded", None])
@in_loop
async def test_a_conversation_that_is_too_long_has_its_code(code):
    message = "This model's maximum context length is 4096 tokens"
    error, _ = await refusal_of(as_json(400, {"error": {"message": message, "code": code}}))
    assert (error.kind, error.code) == ("invalid", "context_length_exceeded")


@in_loop
async def test_a_long_wait_is_left_to_the_client():
    error, calls = await refusal_of(as_json(429, {}, Retry_After="3600"))
    assert (error.kind, error.retry_after, calls) == ("busy", 3600, 1)


@in_loop
async def test_no_retries_are_made_where_none_are_wanted():
    _, calls = await refusal_of(BROKEN, retries=0)
    assert calls == 1


@in_loop
async def test_a_server_that_refuses_connections():
    async with serving(BROKEN) as server:
        pass
    async with client_of(server) as client:
        with pytest.raises(RequestError, match="cannot be reached") as refusal:
            await client.generate("r", PARAMS, lambda update: None)
    assert refusal.value.kind == "unavailable"
    assert client.failed.is_set()


@pytest.mark.parametrize("reply", [endless(b""), endless(OK_STREAM), endless(OK_STREAM, b": ping\n\n")])
@in_loop
async def test_a_server_that_never_answers_is_left_in_time(reply):
    async with serving(reply) as server, client_of(server, timeout_seconds=0.3) as client:
        with pytest.raises(RequestError, match=r"no complete answer within 0\.3 s") as refusal:
            await client.generate("r", PARAMS, lambda update: None)
        await asyncio.wait_for(server.is_left.wait(), 10)
    assert refusal.value.kind == "unavailable"


@in_loop
async def test_cancelling_a_request_closes_its_connection():
    async with serving(endless(OK_STREAM + chunk("a"))) as server, client_of(server) as client:
        begun = asyncio.Event()
        task = asyncio.create_task(client.generate("r", STREAMED, lambda update: begun.set()))
        await begun.wait()
        assert client.in_flight == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.wait_for(server.is_left.wait(), 10)
        assert client.in_flight == 0


@pytest.mark.parametrize(
    ("limit", "reply", "said"),
    [
        ("MAX_LINE_BYTES", endless(OK_STREAM, b"data: aaaaaaaaaaaaaaaa"), "a line of more than 1000 bytes"),
        ("MAX_ANSWER_BYTES", endless(OK_STREAM, chunk("a")), "an answer of more than 1000 bytes"),
    ],
)
@in_loop
async def test_an_answer_without_end_is_cut_off(monkeypatch, limit, reply, said):
    monkeypatch.setattr(http, limit, 1000)
    error, calls = await refusal_of(reply)
    assert (error.kind, calls) == ("failed", 1)
    assert said in error.message


@in_loop
async def test_an_error_without_end_is_cut_off():
    error, _ = await refusal_of(endless(b"HTTP/1.1 404 X\r\n\r\n", b"no! " * 1000))
    assert len(error.message) < 1000


@in_loop
async def test_an_answer_that_goes_on_after_its_end_is_complete(monkeypatch):
    monkeypatch.setattr(http, "END_SECONDS", 0.05)
    async with serving(endless(stream_of("fox"), b"data: x\n\n")) as server, client_of(server) as client:
        assert (await texts_of(client))[0] == "fox"


@in_loop
async def test_the_key_is_read_at_each_call_and_never_shown(tmp_path):
    file = tmp_path / "key"
    file.write_text("old-key\n")
    refused = as_json(401, {"error": {"message": "Incorrect API key provided: old-key"}})
    async with serving(refused, answer("fox")) as server, client_of(server, api_key_file=str(file)) as client:
        with pytest.raises(RequestError) as refusal:
            await client.generate("r", PARAMS, lambda update: None)
        assert "Incorrect API key provided: ***" in refusal.value.message
        file.write_text("new-key")
        await client.generate("r", PARAMS, lambda update: None)
    assert [call.headers["authorization"] for call in server.calls] == ["Bearer old-key", "Bearer new-key"]


@pytest.mark.parametrize("content", [None, "", "two words", "a\nb", "schlüssel"])
@in_loop
async def test_a_key_that_cannot_be_used_is_never_sent(tmp_path, content):
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    error, calls = await refusal_of(answer("fox"), api_key_file=str(file))
    assert calls == 0
    assert str(file) in error.message
    assert not content or content not in error.message


@in_loop
async def test_a_proxy_of_the_environment_is_used_but_never_for_loopback(monkeypatch):
    async with serving(answer("through a proxy")) as proxy, serving(answer("direct")) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with client_of(server) as client:
            assert (await texts_of(client))[0] == "direct"
        server.url = "http://vllm.example:8000/v1"
        async with client_of(server) as client:
            assert (await texts_of(client))[0] == "through a proxy"
    assert proxy.calls[0].path == "http://vllm.example:8000/v1/chat/completions"


@in_loop
async def test_many_requests_run_at_one_time():
    async with serving(answer("fox")) as server, client_of(server) as client:
        texts = await asyncio.gather(*(texts_of(client) for _ in range(50)))
    assert texts == [("fox", [])] * 50


def test_pauses_grow_to_a_bound():
    pauses = [client_module.pause_before(tries, None) for tries in range(1, 12)]
    assert all(pause <= client_module.MAX_PAUSE_SECONDS for pause in pauses)
    assert pauses[-1] > pauses[0]
