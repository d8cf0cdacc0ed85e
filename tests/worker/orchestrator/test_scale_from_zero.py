"""A stage without replicas that a request can wake: requests wait for the first replica, and the head is ready."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from omni_worker.commands.head import _why_not_ready
from omni_worker.config.records import Stage
from omni_worker.errors import RequestError
from omni_worker.orchestrator import stage_pool
from omni_worker.orchestrator.balancers import make_balancer
from omni_worker.orchestrator.metrics_collector import PoolCollector
from omni_worker.orchestrator.stage_pool import StagePool
from tests.worker.orchestrator.pools import Connection, replica


def empty_pool(wake_seconds: float | None) -> StagePool:
    stage = Stage(0, "painter", wake_seconds=wake_seconds)
    return StagePool(stage, make_balancer("least-queue-length"), lambda key, uid: None, connect=Connection)


def test_a_request_waits_for_the_first_replica_longer_than_for_one_that_should_be_there(monkeypatch):
    monkeypatch.setattr(stage_pool, "DISPATCH_SECONDS", 0.05)

    async def run():
        pool = empty_pool(wake_seconds=30.0)
        asyncio.get_running_loop().call_later(0.3, pool.update, replica())
        return (await pool.pick()).name

    assert asyncio.run(run()) == "0"


def test_requests_that_wait_are_counted_for_an_autoscaler_that_wakes_the_stage():
    async def run():
        pool, registry = empty_pool(wake_seconds=30.0), CollectorRegistry()
        registry.register(PoolCollector([pool], lambda now: {}))

        def waiting():
            return registry.get_sample_value("omni_stage_waiting", {"stage": "painter"})

        tasks = [asyncio.create_task(pool.pick()) for _ in range(2)]
        await asyncio.sleep(0)
        counts = [waiting()]
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        counts.append(waiting())
        pool.update(replica())
        await tasks[1]
        return [*counts, waiting()]

    assert asyncio.run(run()) == [2.0, 1.0, 0.0]


def test_a_request_at_a_stage_that_should_have_one_is_told_soon(monkeypatch):
    monkeypatch.setattr(stage_pool, "DISPATCH_SECONDS", 0.05)

    async def run():
        with pytest.raises(RequestError, match="no replica of stage 'painter' is up"):
            await empty_pool(wake_seconds=None).pick()

    asyncio.run(run())


def test_a_head_is_ready_without_replicas_of_a_stage_that_may_have_none():
    async def run():
        return _why_not_ready([empty_pool(30.0)]), _why_not_ready([empty_pool(30.0), empty_pool(None)])

    ready, waiting = asyncio.run(run())
    assert ready is None
    assert waiting == "no replica is up for: painter"
