"""Where a stage pool lets requests run that may be what crashes replicas."""

import asyncio

import pytest

from omni_worker.coordinator.messages import ReplicaState
from omni_worker.errors import RequestError
from omni_worker.orchestrator import stage_pool, suspects
from omni_worker.orchestrator.run_history import RunHistory

from .pools import in_loop, pool_of, replica


def suspect(id):
    return RunHistory(id, crashes=suspects.CRASHES_TO_SUSPECT)


@in_loop
async def test_suspects_run_one_at_a_time_on_a_replica_beside_others():
    pool = pool_of(2)
    histories = [suspect(id) for id in "abc"]
    first, second = [await pool.pick(one) for one in histories[:2]]
    assert first is not second
    third = asyncio.create_task(pool.pick(histories[2]))
    await pool.pick()
    await asyncio.sleep(0.01)
    assert not third.done()
    pool.release(second, histories[1])
    assert await third is second


@in_loop
async def test_a_suspect_runs_on_the_last_replica_only_when_no_other_comes(hurried):
    pool = pool_of(1)
    waiting = asyncio.create_task(pool.pick(suspect("a")))
    await asyncio.sleep(suspects.SECOND_REPLICA_SECONDS / 4)
    assert not waiting.done()
    pool.update(replica(1))
    assert await waiting in pool.members
    pool = pool_of(1)
    assert (await pool.pick(suspect("b"))).name == "0", "in the end: it may well be innocent"


@in_loop
async def test_suspects_wait_for_their_turn_however_long_and_for_a_replica_not_for_ever(hurried):
    pool = pool_of(2)
    histories = [suspect(id) for id in "abc"]
    members = [await pool.pick(one) for one in histories[:2]]
    waiting = asyncio.create_task(pool.pick(histories[2]))
    await asyncio.sleep(stage_pool.RETRY_DISPATCH_SECONDS * 1.5)
    assert not waiting.done()
    for number in range(2):
        pool.update(replica(number, ReplicaState.DOWN))
    with pytest.raises(RequestError, match="is up"):
        await waiting
    assert all(member.suspect_at_disconnect is None for member in members), "they left, and did not crash"


@in_loop
async def test_a_crash_is_blamed_on_the_suspect_that_ran_there():
    pool = pool_of(2)
    history = suspect("a")
    member = await pool.pick(history)
    other = next(one for one in pool.members if one is not member)
    member.client.break_off()
    pool.release(member, history)
    other.client.break_off()
    assert (member.suspect_at_disconnect, other.suspect_at_disconnect) == ("a", None)
