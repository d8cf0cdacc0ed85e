"""Whether a stage's server is up, as its pool and the requests see it."""

import asyncio

import pytest

from omni_worker.config.endpoint import Endpoint
from omni_worker.config.records import Stage
from omni_worker.endpoint import health as health_module
from omni_worker.errors import RequestError
from omni_worker.orchestrator import stage_pool
from omni_worker.orchestrator.balancers import make_balancer
from omni_worker.orchestrator.endpoint_pools import endpoint_pool
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.requests import GenerationParams, GenerationRequest
from omni_worker.telemetry.metrics import HeadMetrics
from tests.worker.endpoint.scripted_server import MODEL, answer, as_json, endless, raw, serving
from tests.worker.orchestrator.pools import in_loop

from prometheus_client import CollectorRegistry  # isort: skip


def pool_of(url, model=MODEL, **settings):
    endpoint = Endpoint(url, model, **settings)
    stage = Stage(0, "rewriter", "openai", endpoint=endpoint)
    return endpoint_pool(stage, endpoint, make_balancer("random"))


@pytest.mark.parametrize(
    ("models", "is_up", "problem"),
    [
        (as_json(200, {"data": [{"id": MODEL}]}), True, None),
        (as_json(200, {"data": []}), True, None),
        (as_json(404, {}), True, None),
        (as_json(429, {}), True, None),
        (as_json(200, {"data": [{"id": "other"}]}), True, "does not list the model 'writer'; it lists 'other'"),
        (raw(b"HTTP/1.1 200 X\r\n\r\nhello"), True, "gave no list of models"),
        (as_json(401, {"error": {"message": "who?"}}), False, "answered 401: who?"),
        (as_json(503, {"detail": "loading"}), False, "answered 503: loading"),
        (as_json(307, {}), False, "redirects are not followed"),
        (endless(b"HTTP/1.1 200 X\r\n\r\n"), False, "did not answer within 0.2 s"),
        (endless(b"HTTP/1.1 200 X\r\n\r\n", b"a" * 10_000), False, "answered with more than 100000 bytes"),
    ],
)
@in_loop
async def test_a_check_says_what_is_wrong(monkeypatch, models, is_up, problem):
    monkeypatch.setattr(health_module, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(health_module, "MAX_BYTES", 100_000)
    async with serving(models=models) as server:
        pool, health = pool_of(server.url)
        await health.check()
        assert bool(pool.up) is is_up
        assert (pool.problem is None) is (problem is None)
        assert problem is None or problem in pool.problem
        assert problem is None or server.url in pool.problem
        await pool.close()


@in_loop
async def test_the_card_tells_the_model_and_its_context():
    async with serving() as server:
        pool, health = pool_of(server.url)
        await health.check()
        (member,) = pool.members
        assert (member.replica.card.pipeline, member.replica.card.context_length) == (MODEL, 4096)
        assert member.replica.address == server.url
        assert member.replica.host in server.url
        await pool.close()


@in_loop
async def test_a_server_that_comes_back_gets_requests_again(monkeypatch):
    monkeypatch.setattr(health_module, "FIRST_RECHECK_SECONDS", 0.02)
    is_up = [False]

    async def models(request, writer):
        await (as_json(200, {"data": []}) if is_up[0] else as_json(500, {}))(request, writer)

    async with serving(models=models) as server:
        pool, health = pool_of(server.url)
        running = asyncio.create_task(health.run())
        picking = asyncio.create_task(pool.pick())
        await server.has_got(1)
        is_up[0] = True
        assert (await picking).replica.address == server.url
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await pool.close()


@in_loop
async def test_a_call_that_finds_the_server_down_has_it_checked_at_once():
    async with serving(as_json(500, {})) as server:
        pool, health = pool_of(server.url, retries=0)
        running = asyncio.create_task(health.run())
        member = await pool.pick()
        checks = len(server.requests)
        with pytest.raises(RequestError):
            await member.client.generate("r", GenerationParams(prompt="x"), lambda update: None)
        await server.has_got(checks + 2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await pool.close()


def orchestrator_of(pool):
    return Orchestrator([pool], HeadMetrics(CollectorRegistry(), ["rewriter"]))


def text_request():
    return GenerationRequest(id="r", params=GenerationParams(prompt="a fox"), outputs=frozenset({"text"}))


@in_loop
async def test_a_pipeline_of_such_a_stage_alone_answers_with_its_text():
    async with serving(answer("a red fox")) as server:
        pool, health = pool_of(server.url)
        await health.check()
        result = await orchestrator_of(pool).generate(text_request())
        assert result.completion.written.text == "a red fox"
        assert pool.tokens == 7
        await pool.close()


@pytest.mark.parametrize(
    ("reply", "kind"), [(as_json(500, {}), "failed"), (as_json(429, {}, Retry_After="99"), "busy")]
)
@in_loop
async def test_a_failure_is_the_clients_at_once(reply, kind):
    async with serving(reply) as server:
        pool, health = pool_of(server.url, retries=0)
        await health.check()
        with pytest.raises(RequestError, match="answered") as refusal:
            await orchestrator_of(pool).generate(text_request())
        assert (refusal.value.kind, refusal.value.stage, len(server.calls)) == (kind, "rewriter", 1)
        assert pool.members[0].in_flight == 0
        await pool.close()


@in_loop
async def test_a_request_for_a_server_that_is_down_says_why(monkeypatch):
    monkeypatch.setattr(stage_pool, "DISPATCH_SECONDS", 0.1)
    async with serving(models=as_json(401, {"error": {"message": "no such key"}})) as server:
        pool, health = pool_of(server.url)
        await health.check()
        with pytest.raises(RequestError, match="no such key") as refusal:
            await orchestrator_of(pool).generate(text_request())
        assert (refusal.value.kind, server.calls) == ("unavailable", [])
        await pool.close()
