"""Which replica a stage pool selects for a request."""

import asyncio

import pytest

from omni_worker.coordinator.messages import ReplicaState
from omni_worker.errors import RequestError
from omni_worker.orchestrator import stage_pool
from omni_worker.orchestrator.run_history import RunHistory

from .pools import in_loop, numbers, pool_of, replica


@pytest.mark.parametrize("state", [state for state in ReplicaState if state is not ReplicaState.UP])
@in_loop
async def test_only_a_replica_that_is_up_gets_a_request(state):
    pool = pool_of(1)
    pool.update(replica(1, state))
    assert {(await pool.pick()).name for _ in range(5)} == {"0"}
    pool.update(replica(1))
    assert (await pool.pick()).name == "1"


@in_loop
async def test_a_replica_whose_connection_closed_gets_nothing_until_it_stands_again():
    lost = []
    pool = pool_of(2, on_lost=lambda key, uid: lost.append((key, uid)))
    broken = pool.members[0]
    broken.client.break_off()
    assert lost == [((0, 0), "u0")]
    assert numbers(pool.up) == [1]
    assert {(await pool.pick()).name for _ in range(5)} == {"1"}
    broken.client.reopen()
    assert numbers(pool.up) == [0, 1]
    assert (await pool.pick()) is broken


@in_loop
async def test_requests_wait_for_a_replica_and_spread_over_those_that_come():
    pool = pool_of(0)
    waiting = [asyncio.create_task(pool.pick()) for _ in range(6)]
    await asyncio.sleep(0.01)
    for number in range(3):
        pool.update(replica(number))
    assert sorted(numbers(await asyncio.gather(*waiting))) == [0, 0, 1, 1, 2, 2]


@in_loop
async def test_nobody_waits_for_ever(hurried):
    with pytest.raises(RequestError, match="no replica of stage 'painter' is up") as refused:
        await pool_of(0).pick()
    assert refused.value.kind == "unavailable"


@in_loop
async def test_a_new_request_waits_longer_for_a_replica_that_may_be_restarting(monkeypatch):
    monkeypatch.setattr(stage_pool, "DISPATCH_SECONDS", 0.05)
    monkeypatch.setattr(stage_pool, "RESTART_DISPATCH_SECONDS", 60.0)
    pool = pool_of(0)
    pool.update(replica(0, ReplicaState.STARTING))
    with pytest.raises(RequestError, match="is up"):
        await pool.pick()
    pool.update(replica(0))
    pool.update(replica(0, ReplicaState.ERROR))
    waiting = [asyncio.create_task(pool.pick())]
    pool.update(replica(0, ReplicaState.DOWN))
    waiting.append(asyncio.create_task(pool.pick()))
    await asyncio.sleep(0.2)
    pool.update(replica(1))
    assert numbers(await asyncio.gather(*waiting)) == [1, 1]
    monkeypatch.setattr(stage_pool, "RESTART_SECONDS", 0.0)
    pool.update(replica(1, ReplicaState.DOWN))
    with pytest.raises(RequestError, match="is up"):
        await pool.pick()


@in_loop
async def test_one_that_was_taken_before_waits_longer(hurried):
    pool = pool_of(1)
    history = RunHistory("a", lost={pool.members[0]})
    pool.update(replica(0, ReplicaState.ERROR))
    with pytest.raises(RequestError):
        await pool.pick()
    waiting = asyncio.create_task(pool.pick(history))
    await asyncio.sleep(stage_pool.RESTART_DISPATCH_SECONDS * 2)
    pool.update(replica(0))
    assert (await waiting).name == "0", "though it lost that one: there is no other"


@in_loop
async def test_a_request_goes_back_to_a_replica_it_lost_only_where_there_is_no_other():
    pool = pool_of(3)
    history = RunHistory("a", lost={pool.members[0], pool.members[1]})
    assert (await pool.pick(history)).name == "2"
    pool.update(replica(2, ReplicaState.DOWN))
    assert (await pool.pick(history)).name in ("0", "1")


@in_loop
async def test_a_new_process_with_a_lost_ones_id_is_another_replica():
    pool = pool_of(1)
    history = RunHistory("a", lost={pool.members[0]}, refused={pool.members[0]})
    pool.update(replica(0, uid="restarted"))
    assert (await pool.pick(history)).replica.uid == "restarted"


@in_loop
async def test_one_that_refused_is_not_asked_again_though_it_seems_to_be_up(hurried):
    pool = pool_of(1)
    history = RunHistory("a", refused={pool.members[0]})
    with pytest.raises(RequestError, match="is up"):
        await pool.pick(history)


@in_loop
async def test_a_request_that_all_turn_away_is_told_the_shortest_time():
    pool = pool_of(3)
    history = RunHistory("a")
    for seconds in (7.0, 3.0, 5.0):
        member = await pool.pick(history)
        history.busy[member] = RequestError("busy", "full", retry_after=seconds)
        pool.release(member)
    with pytest.raises(RequestError) as refused:
        await pool.pick(history)
    assert (refused.value.kind, refused.value.retry_after) == ("busy", 3.0)


@in_loop
async def test_a_large_fleet_is_not_asked_one_by_one_for_room():
    pool, history = pool_of(100), RunHistory("a")
    for _ in range(stage_pool.MAX_BUSY_REPLICAS):
        history.busy[await pool.pick(history)] = RequestError("busy", "full", retry_after=1.0)
    with pytest.raises(RequestError) as refused:
        await pool.pick(history)
    assert refused.value.kind == "busy"


@in_loop
async def test_a_requests_later_call_goes_to_its_replica_while_that_is_up():
    pool, history = pool_of(5), RunHistory("a")
    home = await pool.pick(history)
    for _ in range(20):
        await pool.pick()  # it is the fullest by far
    home.in_flight += 100
    assert await pool.pick(RunHistory("a")) is home
    pool.update(replica(home.replica.replica_id, ReplicaState.DRAINING))
    other = await pool.pick(RunHistory("a"))
    assert other is not home
    assert await pool.pick(RunHistory("a")) is other
    pool.forget("a")
    other.in_flight += 100
    assert await pool.pick(RunHistory("a")) is not other


@in_loop
async def test_reports_count_only_what_is_not_this_heads():
    pool = pool_of(1)
    (member,) = pool.members
    for _ in range(4):
        await pool.pick()
    pool.update(replica(0, queue_length=2, running=2))
    assert (member.in_flight, member.other_requests) == (4, 0)
    pool.update(replica(0, queue_length=5, running=2))
    assert member.other_requests == 3
    for _ in range(4):
        pool.release(member)
    pool.update(replica(0, queue_length=0, running=3))
    assert member.other_requests == 0, "the report may be from before ours had ended"
    pool.update(replica(0, queue_length=0, running=2))
    assert member.other_requests == 2, "that of another head, or of one before"


@in_loop
async def test_a_head_that_restarts_avoids_those_that_are_still_busy_for_its_former_self():
    pool = pool_of(0)
    pool.update(replica(0, running=5))
    pool.update(replica(1))
    pool.update(replica(2, running=1))
    assert [(await pool.pick()).name for _ in range(6)] == ["1", "2", "0"] * 2


@in_loop
async def test_those_that_drain_are_asked_to_hand_back_as_soon_as_another_is_up():
    pool = pool_of(1)
    (draining,) = pool.members
    await pool.pick()
    pool.update(replica(0, ReplicaState.DRAINING))
    await asyncio.sleep(0)
    assert draining.client.handed_back == 0, "they finish there: there is no other"
    pool.update(replica(1))
    await asyncio.sleep(0)
    assert draining.client.handed_back == 1


@in_loop
async def test_what_runs_on_one_that_falls_silent_or_leaves_is_given_up():
    pool = pool_of(2)
    silent, leaving = pool.members
    pool.update(replica(0, ReplicaState.ERROR))
    pool.update(replica(0, ReplicaState.ERROR, running=1))
    pool.update(replica(1, ReplicaState.DOWN))
    assert (silent.client.lost, leaving.client.lost) == (["stalled"], ["left"])
    await asyncio.sleep(0)
    assert leaving.client.is_closed
    assert pool.members == [silent]
