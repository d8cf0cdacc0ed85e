"""Replicas on which every request fails, and requests that fail on every replica."""

import asyncio

import numpy as np
import pytest

from omni_worker.coordinator.messages import ReplicaState
from omni_worker.errors import RequestError
from omni_worker.orchestrator import outliers

from .pools import in_loop
from .replica_servers import eventually, serving

BROKEN = ValueError("the device is broken")


def begun(server):
    return len(server.runner.begun)


@in_loop
async def test_no_request_fails_that_a_healthy_replica_can_serve_and_the_broken_one_is_ejected():
    async with serving(3) as stage:
        stage.servers[0].runner.failure = BROKEN
        for burst in range(10):
            await asyncio.gather(*(stage.begin(f"{burst}-{i}", 2) for i in range(8)))
        assert stage.pool.ejections == 1
        assert begun(stage.servers[0]) < 20, "it did not attract requests by failing fast"
        assert stage.servers[1].server.completed + stage.servers[2].server.completed == 80
        assert [member.in_flight for member in stage.pool.members] == [0, 0, 0]


@in_loop
async def test_a_replica_with_wrong_results_costs_no_request_and_is_ejected():
    async with serving(2) as stage:
        for wrong in ([], [np.zeros((1, 2**20, 3), np.uint8)], [np.full((8, 8, 3), np.nan, np.float32)]):
            stage.servers[0].runner.images = wrong
            results = await asyncio.gather(*(stage.begin(f"{len(wrong)}-{i}", 2) for i in range(8)))
            assert all(result.images[0].shape == (8, 8, 3) for result in results)
        assert stage.pool.ejections == 1


@in_loop
async def test_a_wrong_result_of_the_only_replica_fails_the_request_and_says_why():
    async with serving(1) as stage:
        stage.servers[0].runner.images = [np.zeros((1, 1, 2**20, 3), np.uint8)]
        with pytest.raises(
            RequestError, match=r"wrong result: image of shape \(1, 1, 1048576, 3\), expected"
        ) as failure:
            await stage.begin("a", 2)
        assert failure.value.kind == "failed"


@in_loop
async def test_two_broken_ones_of_three_cost_no_request_either():
    async with serving(3) as stage:
        for server in stage.servers[:2]:
            server.runner.failure = BROKEN
        await asyncio.gather(*(stage.begin(f"a{i}", 2) for i in range(24)))
        assert stage.servers[2].server.completed == 24
        assert stage.pool.ejections == 1, "at most half of them are ejected at one time"


@in_loop
async def test_requests_that_fail_everywhere_have_no_replica_ejected_and_run_on_three_at_most():
    async with serving(4) as stage:
        for i in range(12):
            with pytest.raises(RequestError, match="no such shape") as failure:
                await stage.begin(f"bad-{i}", 2, prompt="poison")
            assert failure.value.kind == "failed"
        assert sum(map(begun, stage.servers)) == 12 * 3
        assert stage.pool.ejections == 0
        assert [member.in_flight for member in stage.pool.members] == [0] * 4
        assert not stage.orchestrator.running


@in_loop
async def test_a_request_that_fails_on_the_only_replica_fails_at_once():
    async with serving(1) as stage:
        with pytest.raises(RequestError, match="no such shape"):
            await stage.begin("a", 2, prompt="poison")
        stage.servers[0].runner.failure = BROKEN
        for i in range(5):
            with pytest.raises(RequestError, match="the device is broken"):
                await stage.begin(f"b{i}", 2)
        stage.servers[0].runner.failure = None
        await stage.begin("c", 2)
        assert stage.pool.ejections == 0


@in_loop
async def test_an_ejected_replica_returns_when_its_time_is_over_and_is_ejected_for_longer_the_next_time(monkeypatch):
    monkeypatch.setattr(outliers, "BASE_EJECTION_SECONDS", 0.1)
    async with serving(2) as stage:
        broken, member = stage.servers[0], stage.pool.members[0]
        broken.runner.failure = BROKEN
        while stage.pool.ejections < 3:
            await asyncio.gather(*(stage.begin(f"{stage.pool.ejections}-{i}", 1) for i in range(4)))
            await eventually(lambda: not member.record.is_ejected)
        assert member.record.ejections == 3
        broken.runner.failure = None
        for i in range(outliers.WINDOW):
            await asyncio.gather(stage.begin(f"x{i}", 1), stage.begin(f"y{i}", 1))
        assert broken.server.completed >= outliers.WINDOW
        assert member.record.ejections == 0, "it proved itself"


@in_loop
async def test_an_ejected_replica_serves_while_there_is_no_other():
    async with serving(2) as stage:
        stage.servers[0].runner.failure = BROKEN
        for i in range(8):
            await stage.begin(f"a{i}", 1)
        assert stage.pool.members[0].record.is_ejected
        stage.servers[0].runner.failure = None
        stage.publish(1, ReplicaState.DRAINING)
        await stage.begin("b", 1)
        assert stage.servers[0].server.completed == 1
        assert stage.pool.is_ready


@in_loop
async def test_a_replica_that_fails_now_and_then_stands_out_and_one_that_failed_once_does_not():
    healthy, flaky, unlucky = (outliers.RunRecord() for _ in range(3))
    for i in range(outliers.WINDOW):
        healthy.add(True)
        flaky.add(i % 4 > 0)
        unlucky.add(i > 0)
    assert flaky.stands_out([healthy, unlucky])
    assert not unlucky.stands_out([healthy, flaky])
    assert not flaky.stands_out([])
    assert not flaky.stands_out([flaky, flaky]), "where all fail alike, none is the cause"


@in_loop
async def test_a_new_process_in_place_of_an_ejected_one_starts_with_a_clean_record():
    async with serving(2) as stage:
        stage.servers[0].runner.failure = BROKEN
        for i in range(8):
            await stage.begin(f"a{i}", 1)
        ejected = stage.pool.members[0]
        stage.servers[0].uid = "restarted"
        stage.publish(0, ReplicaState.UP)
        stage.servers[0].runner.failure = None
        assert not stage.pool.members[0].record.is_ejected
        stage.pool._readmit(ejected)  # its timer fires late
        for i in range(4):
            await stage.begin(f"b{i}", 1)
        assert stage.servers[0].server.completed == 2
