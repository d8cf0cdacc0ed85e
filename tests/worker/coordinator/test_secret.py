"""Without the secret, nobody can register, read or inject. A replica with the wrong secret is told the reason."""

import asyncio
import logging

import pytest
import zmq
import zmq.asyncio

from omni_worker.coordinator.messages import ReplicaState, encode
from omni_worker.errors import ReplicaLost, RequestError
from omni_worker.replica.client import ReplicaClient
from omni_worker.replica.server import ReplicaServer
from omni_worker.replica.wire.messages import Rpc, pack
from omni_worker.requests import GenerationParams
from omni_worker.transport.keys import CurveKeys
from omni_worker.transport.sockets import make_socket

from .. import serving
from ..serving import Pipeline, free_ports
from .builders import registration, report_of
from .live_fleet import eventually, running

OURS, THEIRS = CurveKeys.from_secret(b"o" * 32), CurveKeys.from_secret(b"t" * 32)
COMBINATIONS = [
    pytest.param(OURS, None, "this replica has no secret", id="the replica has none"),
    pytest.param(OURS, THEIRS, "did not accept this replica's secret", id="the replica has another"),
    pytest.param(None, OURS, "the head has none", id="the head has none"),
]


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def test_with_the_same_secret_all_is_as_without():
    async def body():
        async with running(timeout=3.0, keys=OURS) as fleet:
            client = fleet.client("a")
            await eventually(lambda: fleet.states() == {"a": ReplicaState.UP})
            await fleet.stop()
            fleet.view.clear()
            fleet.start()
            assert await eventually(lambda: fleet.states() == {"a": ReplicaState.UP}) < 2 * fleet.heartbeat + 0.5
            assert client.is_registered
            assert fleet.coordinator.traffic.rejected == 0

    run(body())


@pytest.mark.parametrize(("heads", "replicas", "says"), COMBINATIONS)
def test_a_replica_with_the_wrong_secret_is_told_so_counted_and_not_registered(heads, replicas, says, caplog):
    async def body():
        async with running(timeout=3.0, keys=heads) as fleet:
            good, bad = fleet.client("good"), fleet.client("bad", keys=replicas)
            await eventually(lambda: bad.refusal is not None)
            assert says in bad.refusal
            assert "--omni-secret-file" in bad.refusal
            await eventually(lambda: fleet.coordinator.traffic.rejected > 0, 5.0)
            await eventually(lambda: good.is_registered)
            await eventually(lambda: fleet.states() == {"good": ReplicaState.UP})
            assert not bad.is_registered
            fleet.coordinator._rejected_at = float("-inf")
            rejected = fleet.coordinator.traffic.rejected
            await eventually(lambda: fleet.coordinator.traffic.rejected > rejected, 5.0)

    caplog.set_level(logging.WARNING)
    run(body())
    refusals = [line for line in caplog.messages if line.startswith("the head refused this replica")]
    assert len(refusals) == 1, "said once, though it is tried again and again"
    assert any("rejected" in line for line in caplog.messages), "the head says so too"


@pytest.mark.parametrize(("heads", "others", "says"), COMBINATIONS)
def test_nothing_is_read_or_injected_without_the_secret(heads, others, says):
    async def body():
        async with running(timeout=30.0, keys=heads) as fleet:
            fleet.client("a")
            await eventually(lambda: fleet.states() == {"a": ReplicaState.UP})
            (replica,) = fleet.registry.replicas
            context = zmq.asyncio.Context.instance()
            master, reports, ear = (make_socket(context, kind, others) for kind in (zmq.DEALER, zmq.DEALER, zmq.SUB))
            ear.subscribe(b"")
            for socket, port in zip((master, reports, ear), fleet.ports, strict=True):
                socket.connect(f"tcp://127.0.0.1:{port}")
            await master.send(encode(registration("intruder")))
            await reports.send(encode(report_of(replica, ReplicaState.DOWN)))
            await asyncio.sleep(1.5)  # a hub with the secret would have its snapshot by now
            for socket in (master, reports, ear):
                assert not await socket.poll(0)
                socket.close(linger=0)
            assert fleet.states() == {"a": ReplicaState.UP}
            assert fleet.coordinator.traffic.malformed == 0

    run(body())


def test_who_knows_the_public_half_but_not_the_secret_is_not_let_in_either():
    async def body():
        async with running(timeout=30.0, keys=OURS) as fleet:
            socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
            socket.curve_serverkey = OURS.public
            socket.curve_publickey, socket.curve_secretkey = THEIRS.public, THEIRS.secret
            socket.connect(f"tcp://127.0.0.1:{fleet.ports[0]}")
            await socket.send(encode(registration("intruder")))
            await eventually(lambda: fleet.coordinator.traffic.rejected > 0, 5.0)
            assert fleet.registry.replicas == []
            socket.close(linger=0)

    run(body())


@pytest.mark.parametrize(("server_keys", "client_keys", "answers"), [
    pytest.param(OURS, OURS, True, id="the same"),
    pytest.param(None, None, True, id="none"),
    *(pytest.param(one, other, False, id=f"{i}") for i, (one, other) in enumerate([(OURS, None), (OURS, THEIRS)])),
])  # fmt: skip
def test_a_replicas_data_socket_answers_only_holders_of_the_secret(server_keys, client_keys, answers):
    async def body():
        (port,) = free_ports(1)
        server = ReplicaServer(1, server_keys)
        server.bind("127.0.0.1", port)
        serving = asyncio.create_task(server.run())
        client = ReplicaClient(f"tcp://127.0.0.1:{port}", lambda is_open: None, client_keys)
        intruder = make_socket(zmq.asyncio.Context.instance(), zmq.DEALER, client_keys)
        intruder.connect(f"tcp://127.0.0.1:{port}")
        await intruder.send_multipart(pack(Rpc("1", "stats")))
        with pytest.raises((RequestError, ReplicaLost, TimeoutError)) as outcome:
            await asyncio.wait_for(client.generate("r", GenerationParams(prompt="x"), lambda news: None), 2.0)
        assert (outcome.type is RequestError) is answers, "a server without an engine refuses; that is an answer"
        assert bool(await intruder.poll(500)) is answers
        await client.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        intruder.close(linger=0)
        server._socket.close(linger=0)

    run(body())


@pytest.mark.processes
def test_real_processes_with_a_secret_and_one_without(tmp_path):
    file = tmp_path / "secret"
    file.write_text("s" * 40)
    file.chmod(0o600)
    pipeline = Pipeline()
    try:
        pipeline.head.stop()
        pipeline.head.argv += ("--omni-secret-file", str(file))
        pipeline.head.start()
        stranger = pipeline.add_headless()
        member = pipeline.add_headless("--omni-secret-file", str(file))
        serving.eventually(member.is_ready, "the replica with the secret")
        serving.eventually(
            lambda: "no secret" in stranger.get("/readyz").json().get("reason", ""), "the reason of the other"
        )
        assert [one["state"] for one in pipeline.replicas()] == ["UP"]
        assert serving.draw(pipeline.head.port)
        assert "omni_membership_rejected_total 0.0" not in pipeline.head.get("/metrics").text
        assert "--omni-secret-file" in stranger.log
    finally:
        pipeline.close()
