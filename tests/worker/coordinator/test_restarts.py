"""Heads, coordinators and replicas restart in any order, over real sockets. The fleet is back in two heartbeats."""

import asyncio
from functools import partial

import pytest
import zmq
import zmq.asyncio

from omni_worker.commands.head import _note_refusal
from omni_worker.config.records import Stage
from omni_worker.coordinator.hub import Hub
from omni_worker.coordinator.messages import Registered, ReplicaLoad, ReplicaState, decode_master_reply, encode
from omni_worker.orchestrator import stage_pool
from omni_worker.orchestrator.balancers import make_balancer
from omni_worker.orchestrator.stage_pool import StagePool
from omni_worker.transport.sockets import make_socket

from .builders import registration, report_of
from .live_fleet import Fleet, eventually, running

TIMEOUT = 3.0
SLACK = 0.5  # for the machine: the rest is two heartbeats


def up(fleet, *uids):
    return lambda: fleet.states() == dict.fromkeys(uids, ReplicaState.UP)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def test_replicas_that_start_before_their_head_wait_for_it():
    async def body():
        fleet = Fleet(TIMEOUT)
        try:
            clients = [fleet.client(uid) for uid in "ab"]
            await asyncio.sleep(1.0)
            assert not any(client.is_registered for client in clients)
            fleet.start()
            took = await eventually(up(fleet, "a", "b"))
            assert took < 2 * fleet.heartbeat + SLACK
            assert all(client.is_registered for client in clients)
        finally:
            await fleet.close()

    run(body())


@pytest.mark.parametrize("pause", [0.0, 1.5], ids=["at once", "after a while"])
def test_a_head_that_restarts_relearns_its_fleet_within_two_heartbeats(pause):
    async def body():
        async with running(timeout=TIMEOUT) as fleet:
            clients = [fleet.client(uid) for uid in "abc"]
            clients[2].state = ReplicaState.DRAINING
            expected = {"a": ReplicaState.UP, "b": ReplicaState.UP, "c": ReplicaState.DRAINING}
            await eventually(lambda: fleet.states() == expected)
            ids = {uid: replica.replica_id for uid, replica in fleet.view.items()}
            for _ in range(3):
                await fleet.stop()
                fleet.view.clear()
                await asyncio.sleep(pause)
                assert all(client.is_registered for client in clients), "a short absence is no reason to be unready"
                fleet.start()
                took = await eventually(lambda: fleet.states() == expected)
                assert took < 2 * fleet.heartbeat + SLACK
                assert sorted(one.replica_id for one in fleet.view.values()) == sorted(ids.values())

    run(body())


def test_a_coordinator_that_forgot_its_fleet_is_told_again_though_no_connection_closed():
    async def body():
        async with running(timeout=TIMEOUT) as fleet:
            fleet.client("a")
            await eventually(up(fleet, "a"))
            fleet.registry._entries.clear()
            took = await eventually(
                lambda: len(fleet.registry) == 1 and fleet.registry.replicas[0].state is ReplicaState.UP
            )
            assert took < 2 * fleet.heartbeat + SLACK

    run(body())


def test_a_replica_that_restarts_at_its_address_takes_its_own_place_at_once():
    async def body():
        async with running(timeout=30.0) as fleet:
            first = fleet.client("first", address="tcp://h:1")
            fleet.client("other")
            await eventually(up(fleet, "first", "other"))
            id = fleet.view["first"].replica_id
            await first.stop()
            fleet.client("second", address="tcp://h:1")
            assert await eventually(up(fleet, "second", "other")) < fleet.timeout / 3
            assert fleet.view["second"].replica_id == id

    run(body())


def test_head_and_replicas_restart_together_in_either_order():
    async def body():
        async with running(timeout=TIMEOUT) as fleet:
            for round in range(4):
                client = fleet.client(f"r{round}", address="tcp://h:1")
                await eventually(up(fleet, f"r{round}"))
                await fleet.stop()
                fleet.view.clear()
                if round % 2:
                    await client.stop()
                    fleet.start()
                else:
                    fleet.start()
                    await client.stop()

    run(body())


def test_a_replica_that_leaves_is_gone_at_once_and_does_not_come_back():
    async def body():
        async with running(timeout=30.0) as fleet:
            leaver = fleet.client("a")
            fleet.client("b")
            await eventually(up(fleet, "a", "b"))
            await leaver.leave()
            await eventually(up(fleet, "b"), 2.0)
            await asyncio.sleep(2 * fleet.heartbeat)
            assert up(fleet, "b")()

    run(body())


def test_a_change_of_state_is_answered_and_published_before_the_next_heartbeat():
    async def body():
        async with running(timeout=30.0) as fleet:
            client = fleet.client("a")
            await eventually(up(fleet, "a"))
            client.state = ReplicaState.DRAINING
            began = asyncio.get_running_loop().time()
            await client.client.report_now()
            assert asyncio.get_running_loop().time() - began < fleet.heartbeat / 2
            assert fleet.registry.replicas[0].state is ReplicaState.DRAINING
            await eventually(lambda: fleet.states() == {"a": ReplicaState.DRAINING}, fleet.heartbeat / 2)

    run(body())


def test_loads_reach_the_hub_with_the_heartbeats_and_most_of_these_need_no_answer():
    async def body():
        async with running(timeout=TIMEOUT) as fleet:
            client = fleet.client("a")
            await eventually(up(fleet, "a"))
            client.load = ReplicaLoad(queue_length=5, running=2, capacity=4, step_ms=8.5)
            await eventually(lambda: fleet.view["a"].load == client.load, 2 * fleet.heartbeat)
            reports, answers = fleet.coordinator.traffic.reports, fleet.coordinator.traffic.answers
            await asyncio.sleep(5 * fleet.heartbeat)
            reports, answers = (
                fleet.coordinator.traffic.reports - reports,
                fleet.coordinator.traffic.answers - answers,
            )
            assert reports >= 4
            assert answers < reports
            assert client.is_registered

    run(body())


def test_a_hub_that_comes_late_or_comes_again_has_the_whole_view_within_a_moment():
    async def body():
        async with running(timeout=30.0) as fleet:
            for uid in "abc":
                fleet.client(uid)
            await eventually(up(fleet, "a", "b", "c"))
            for _ in range(3):  # the second subscriber and those after it, too
                seen = []
                hub = Hub(f"tcp://127.0.0.1:{fleet.ports[2]}", seen.extend)
                hub.start()
                assert await eventually(lambda seen=seen: {one.uid for one in seen} == set("abc")) < 1.5
                await hub.stop()

    run(body())


def test_a_thousand_restarts_over_real_sockets_leave_ids_and_connections_bounded():
    async def body():
        async with running(timeout=30.0) as fleet:
            context = zmq.asyncio.Context.instance()
            master, reports = make_socket(context, zmq.DEALER), make_socket(context, zmq.DEALER)
            master.connect(f"tcp://127.0.0.1:{fleet.ports[0]}")
            reports.connect(f"tcp://127.0.0.1:{fleet.ports[1]}")
            ids = set()
            for start in range(0, 1000, 20):  # twenty of them live at a time; each life ends by leaving or unsaid
                lives = range(start, start + 20)
                for life in lives:
                    await master.send(encode(registration(f"life-{life}", address=f"tcp://h:{life % 20 + 1}")))
                for _ in lives:
                    welcome = decode_master_reply(await master.recv())
                    assert isinstance(welcome, Registered)
                    ids.add(welcome.replica_id)
                for replica in [one for one in fleet.registry.replicas if one.replica_id % 2]:
                    await reports.send(encode(report_of(replica, ReplicaState.DOWN)))
                await eventually(lambda: not any(one.replica_id % 2 for one in fleet.registry.replicas))
            assert ids == set(range(20))
            assert fleet.coordinator.traffic.registered == 1000
            master.close(linger=0)
            reports.close(linger=0)

    run(body())


def test_a_head_knows_the_stages_whose_replicas_do_not_fit_for_as_long_as_they_try(monkeypatch):
    monkeypatch.setattr(stage_pool, "REFUSAL_SECONDS", 2.5)
    pools = [make_pool(Stage(0, "painter")), make_pool(Stage(1, "thinker"))]

    def refusing():
        return [pool.stage.name for pool in pools if pool.refuses_replicas]

    async def body():
        async with running(timeout=TIMEOUT) as fleet:
            fleet.coordinator.on_unfit = partial(_note_refusal, pools)
            fleet.client("fits")
            await eventually(up(fleet, "fits"))
            assert refusing() == []
            unfit = fleet.client("unfit", digest="another")
            await eventually(lambda: refusing() == ["painter"])
            await unfit.stop()
            await eventually(lambda: refusing() == [])

    run(body())


def make_pool(stage):
    return StagePool(stage, make_balancer("random"), lambda key, uid: None)
