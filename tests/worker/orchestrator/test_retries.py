"""Running requests when replicas drain, crash and stall, and when heads and clients leave."""

import asyncio
import contextlib

import pytest

from omni_worker.coordinator.messages import ReplicaState
from omni_worker.errors import RequestError
from omni_worker.replica import client

from .pools import in_loop
from .replica_servers import eventually, serving


@in_loop
async def test_one_that_drains_finishes_what_runs_and_hands_back_what_waits():
    async with serving(1, max_num_seqs=1) as stage:
        running, waiting = stage.begin("a", 60), stage.begin("b", 5)
        await stage.under_way("a")
        await eventually(lambda: stage.servers[0].server.load.queue_length == 1)
        draining = asyncio.create_task(stage.servers[0].server.drain(30.0))
        await asyncio.sleep(0)
        stage.publish(0, ReplicaState.DRAINING)
        await asyncio.sleep(0.1)
        assert not waiting.done(), "there is no other: it stays"
        stage.servers.append(other := type(stage.servers[0])(1))
        stage.pool.update(other.published())
        await waiting
        assert not running.done(), "handed back at once"
        assert [id.partition("#")[0] for id in other.runner.begun] == ["b"]
        await running
        assert await draining
        assert [id.partition("#")[0] for id in stage.servers[0].runner.begun] == ["a"]


@in_loop
async def test_what_has_not_ended_when_the_time_is_over_runs_elsewhere():
    async with serving(2) as stage:
        task = stage.begin("a", 50)
        (number,) = await stage.under_way("a")
        draining = asyncio.create_task(stage.servers[number].server.drain(0.2))
        await asyncio.sleep(0)
        stage.publish(number, ReplicaState.DRAINING)
        assert await draining is False
        await task
        assert stage.servers[1 - number].server.completed == 1
        assert stage.servers[number].server.completed == 0


@in_loop
async def test_one_that_refuses_before_it_is_known_to_drain_costs_nothing_but_a_try():
    async with serving(2) as stage:
        stage.servers[0].server.stop_accepting()
        for id in "abcd":
            await stage.begin(id, 2)
        assert stage.servers[1].server.completed == 4


@in_loop
async def test_what_ran_on_one_that_crashed_runs_elsewhere():
    async with serving(2) as stage:
        tasks = [stage.begin(id, 30) for id in "abcd"]
        await stage.under_way(*"abcd")
        await stage.servers[0].crash()
        assert len(await asyncio.gather(*tasks)) == 4
        assert stage.lost == ["u0"]
        assert stage.servers[1].server.completed == 4


@in_loop
async def test_late_answers_of_one_that_fell_silent_are_passed_over_and_it_stops_working_on_them():
    async with serving(2) as stage:
        task = stage.begin("a", 40)
        (number,) = await stage.under_way("a")
        stage.publish(number, ReplicaState.ERROR)
        await task
        assert stage.servers[1 - number].server.completed == 1
        await eventually(lambda: not stage.servers[number].server.load.running)
        assert stage.servers[number].server.completed == 0, "it was told to abort it"
        stage.publish(number, ReplicaState.UP)
        await asyncio.gather(*(stage.begin(id, 2) for id in "bcd"))
        assert stage.servers[number].server.completed > 0


@in_loop
async def test_a_replica_ends_what_a_head_that_is_gone_had_asked_for():
    async with serving(2) as stage:
        tasks = [stage.begin(id, 10_000) for id in "abcd"]
        await stage.under_way(*"abcd")
        for task in tasks:
            task.cancel()
        for member in stage.pool.members:  # no word is said, as when a process is killed
            member.client._results.clear()
            member.client._socket.close(linger=0)
        await asyncio.gather(*tasks, return_exceptions=True)
        await eventually(lambda: not any(server.server.load.running for server in stage.servers), 5.0)
        first = stage.pool
        stage.head()
        await asyncio.gather(*(stage.begin(id, 2) for id in "abcd"))
        with contextlib.suppress(Exception):
            await first.close()


@in_loop
async def test_a_client_that_leaves_while_its_request_waits_to_be_repeated_is_not_retried():
    async with serving(1) as stage:
        task = stage.begin("a", 1000)
        await stage.under_way("a")
        stage.publish(0, ReplicaState.ERROR)
        await eventually(lambda: stage.orchestrator.running["a"].state == "waiting")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        stage.publish(0, ReplicaState.UP)
        await stage.begin("b", 2)
        assert [id.partition("#")[0] for id in stage.servers[0].runner.begun] == ["a", "b"]
        assert stage.pool.members[0].in_flight == 0
        assert not stage.orchestrator.running


@in_loop
async def test_a_request_that_crashes_replicas_takes_three_and_its_neighbours_are_served():
    async with serving(5) as stage:
        poisoned = stage.begin("poison", 100_000)
        others = []
        for crash in range(3):
            others += [stage.begin(f"other-{crash}-{i}", 20) for i in range(10)]
            (number,) = await stage.under_way("poison")
            await stage.servers[number].crash()
            await eventually(lambda number=number: number not in [int(one.name) for one in stage.pool.up])
            await asyncio.sleep(0.05)
        with pytest.raises(RequestError, match="3 replicas crashed while they ran this request"):
            await poisoned
        assert len(await asyncio.gather(*others)) == 30
        assert len(stage.pool.up) == 2


@in_loop
async def test_a_connection_that_closes_after_silence_is_no_crash(monkeypatch):
    monkeypatch.setattr(client, "SILENCE_SECONDS", 0.0)
    async with serving(5) as stage:
        task = stage.begin("a", 60)
        for _ in range(4):
            (number,) = await stage.under_way("a")
            await stage.servers[number].crash()
            await eventually(lambda number=number: stage.where("a") != number)
        await task
