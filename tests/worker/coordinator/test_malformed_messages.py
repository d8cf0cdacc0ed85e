"""Malformed messages and random bytes on every socket: none of them harms a head, a hub or a replica."""

import asyncio
import contextlib
import random
import socket

import msgspec
import pytest
import zmq
import zmq.asyncio

from omni_worker.coordinator.hub import Hub
from omni_worker.coordinator.messages import (
    Acknowledged,
    Delta,
    LoadUpdate,
    Registered,
    ReplicaLoad,
    ReplicaState,
    ReplicaTable,
    Snapshot,
    decode_master_reply,
    encode,
)
from omni_worker.errors import RequestError
from omni_worker.replica.client import ReplicaClient
from omni_worker.replica.server import ReplicaServer
from omni_worker.replica.wire.link import Offer, PoolReply
from omni_worker.replica.wire.messages import Abort, Add, Output, Progress, Rpc, pack
from omni_worker.requests import GenerationParams, GenerationResult
from omni_worker.transport.sockets import MAX_CONTROL_MESSAGE_BYTES, make_socket

from ..serving import free_ports
from .builders import add_replica, make_registry, registration, report_of
from .live_fleet import eventually, running

REPLICA = add_replica(make_registry())
TO_MASTER = [encode(registration(number=1))]
TO_COORDINATOR = [
    encode(report_of(REPLICA, number=1, queue_length=3)),
    encode(report_of(REPLICA, ReplicaState.DOWN, number=2)),
]
TO_HUB = [
    encode(
        Delta(incarnation="i", sequence=1, changed=ReplicaTable.of([REPLICA]), loads=[LoadUpdate(0, 0, ReplicaLoad())])
    ),
    encode(Snapshot(incarnation="i", sequence=1, all=ReplicaTable.of([REPLICA]))),
]
TO_REPLICA = [
    pack(one)[0] for one in (
        Add("1", GenerationParams(prompt="x")), Abort("1"), Rpc("1", "stats"), Offer(1, 1, 1, "omni-pool-1"),
        PoolReply(1, True),
    )
]  # fmt: skip
FROM_REPLICA = [pack(one)[0] for one in (Progress("1", 1, 2), Offer(1, 1, 1, "omni-pool-1"), PoolReply(1, True))]
FROM_REPLICA += [encode(Acknowledged(incarnation="i", count=1))]
NESTED = b"\x91" * 100_000 + b"\xc0"


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def garbage(seed, valid, count=300):
    """Malformed messages as lists of frames: random bytes, and valid messages that were cut, changed or doubled."""
    chance = random.Random(seed)
    yield from ([], [b""], [b"", b""], [NESTED], [b"\xdd\xff\xff\xff\xff"], [b"\xc6\xff\xff\xff\xff"])
    for _ in range(count):
        whole = bytearray(chance.choice(valid))
        match chance.randrange(5):
            case 0:
                yield [chance.randbytes(chance.randrange(200))]
            case 1:
                yield [bytes(whole[: chance.randrange(len(whole))])]
            case 2:
                for _ in range(chance.randrange(1, 4)):
                    whole[chance.randrange(len(whole))] = chance.randrange(256)
                yield [bytes(whole)]
            case 3:
                yield [bytes(whole)] * chance.randrange(2, 5)
            case _:
                yield [msgspec.msgpack.encode(_other_types(chance, msgspec.msgpack.decode(bytes(whole))))]


def _other_types(chance, value):
    """The same structure with some values replaced by values of other types and sizes."""
    if chance.random() < 0.2:
        return chance.choice([None, -1, 2**64 - 1, 1e308, float("nan"), "", "\0", b"x", [], {}, True, "x" * 70_000])
    if isinstance(value, dict):
        return {key: _other_types(chance, one) for key, one in value.items()}
    if isinstance(value, list):
        return [_other_types(chance, one) for one in value]
    return value


@contextlib.contextmanager
def connected(kind, port):
    made = make_socket(zmq.asyncio.Context.instance(), kind)
    made.connect(f"tcp://127.0.0.1:{port}")
    try:
        yield made
    finally:
        made.close(linger=0)


@pytest.mark.parametrize("seed", range(3))
def test_no_message_to_master_or_coordinator_harms_it(seed):
    async def body():
        async with running(timeout=30.0) as fleet:
            client = fleet.client("good")
            await eventually(lambda: client.is_registered)
            with connected(zmq.DEALER, fleet.ports[0]) as master, connected(zmq.DEALER, fleet.ports[1]) as reports:
                for stranger, valid in ((master, TO_MASTER), (reports, TO_COORDINATOR)):
                    for frames in garbage(seed, valid):
                        if frames:
                            await stranger.send_multipart(frames)
                await eventually(lambda: fleet.coordinator.traffic.malformed > 300)
                await master.send(encode(registration("late")))
                replies = []
                while not any(isinstance(reply, Registered) for reply in replies[-1:]):
                    replies.append(decode_master_reply(await asyncio.wait_for(master.recv(), 5)))
            await eventually(lambda: fleet.states().get("good") is ReplicaState.UP, 5.0)
            client.state = ReplicaState.DRAINING
            await client.client.report_now()
            await eventually(lambda: fleet.states()["good"] is ReplicaState.DRAINING, 5.0)

    run(body())


def test_no_bytes_on_the_ports_harm_the_head_and_huge_frames_are_cut_off():
    async def body():
        async with running(timeout=30.0) as fleet:
            client = fleet.client("good")
            await eventually(lambda: client.is_registered)
            chance = random.Random(0)
            for port in fleet.ports:
                for size in (0, 1, 9, 10, 64, 65, 5_000):
                    with socket.create_connection(("127.0.0.1", port)) as raw, contextlib.suppress(OSError):
                        raw.sendall(chance.randbytes(size))
                with socket.create_connection(("127.0.0.1", port)) as raw, contextlib.suppress(OSError):
                    raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
            before = fleet.coordinator.traffic.reports
            with connected(zmq.DEALER, fleet.ports[1]) as stranger:
                await stranger.send(b"x" * (MAX_CONTROL_MESSAGE_BYTES + 1))
                await asyncio.sleep(0.3)
            await eventually(lambda: fleet.coordinator.traffic.reports > before + 1)
            assert fleet.states() == {"good": ReplicaState.UP}

    run(body())


def test_no_publication_harms_a_hub():
    async def body():
        (port,) = free_ports(1)
        publisher = make_socket(zmq.asyncio.Context.instance(), zmq.XPUB)
        publisher.bind(f"tcp://127.0.0.1:{port}")
        seen = []

        def on_change(changed):
            seen.extend(changed)
            if len(seen) == 1:
                raise RuntimeError("an owner that fails once")

        hub = Hub(f"tcp://127.0.0.1:{port}", on_change)
        hub.start()
        await publisher.recv()
        for frames in garbage(1, TO_HUB):
            if frames:
                await publisher.send_multipart(frames)
        everything = ReplicaTable.of([REPLICA, msgspec.structs.replace(REPLICA, replica_id=7, uid="last")])
        await publisher.send(encode(Snapshot(incarnation="new", sequence=2**32, all=everything)))
        await eventually(lambda: any(one.uid == "last" for one in seen))
        assert hub.malformed > 100
        await hub.stop()
        publisher.close(linger=0)

    run(body())


def test_no_message_harms_a_replicas_data_socket():
    async def body():
        (port,) = free_ports(1)
        server = ReplicaServer(1)
        server.bind("127.0.0.1", port)
        serving = asyncio.create_task(server.run())
        with connected(zmq.DEALER, port) as stranger:
            for seed in range(3):
                for frames in garbage(seed, TO_REPLICA):
                    if frames:
                        await stranger.send_multipart(frames)
            array = msgspec.msgpack.decode(pack(Add("1", GenerationParams(prompt="x")))[0])
            for header in ([[-1], "<f4", 0], [[2**40], "<f4", 0], [[1], "O", 0], [[1], "nonsense", 0], ["x", 1, None]):
                array["params"]["embeddings"] = {"a": header}
                await stranger.send_multipart([msgspec.msgpack.encode(array), b"\0" * 4])
        client = ReplicaClient(f"tcp://127.0.0.1:{port}", lambda is_open: None)
        with pytest.raises(Exception, match="takes nothing new"):
            await asyncio.wait_for(client.generate("good", GenerationParams(prompt="x"), lambda news: None), 5)
        assert not serving.done()
        await client.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        server._socket.close(linger=0)

    run(body())


@contextlib.asynccontextmanager
async def one_request():
    """A head's client with a running request, the socket of its replica, and the address of the head there."""
    (port,) = free_ports(1)
    replica = make_socket(zmq.asyncio.Context.instance(), zmq.ROUTER)
    replica.bind(f"tcp://127.0.0.1:{port}")
    client = ReplicaClient(f"tcp://127.0.0.1:{port}", lambda is_open: None)
    asked = asyncio.create_task(client.generate("1", GenerationParams(prompt="x"), lambda news: None))
    peer, *_ = await replica.recv_multipart()
    yield client, asked, replica, peer
    await client.close()
    replica.close(linger=0)


@pytest.mark.parametrize(("answer", "reason"), [
    ({"type": "output", "id": "1", "result": {"images": [[[9, 9, 3], "|u1", 0]]}}, "cannot reshape array"),
    ({"type": "output", "id": "1", "result": {"images": [[[9, 9, 3], "|u1", 7]]}}, "names array 7 of 1"),
    ({"type": "output", "id": "1", "result": {"images": [[[1], "O", 0]]}}, "no array has the dtype"),
    ({"type": "output", "id": "1", "result": {"steps": "two"}}, "Expected `int`"),
    ({"type": "output", "id": "1"}, "missing required field `result`"),
    ({"type": "error", "id": "1", "kind": "strange", "message": "x"}, "Invalid enum value 'strange'"),
    ({"type": "error", "id": "1", "kind": "busy", "message": "x", "retry_after": float("nan")}, "Expected `float`"),
])  # fmt: skip
def test_an_answer_that_cannot_be_read_fails_its_request_at_once(answer, reason):
    async def body():
        async with one_request() as (_, asked, replica, peer):
            await replica.send_multipart([peer, msgspec.msgpack.encode(answer), bytes(12)])
            with pytest.raises(RequestError, match=f"the replica's answer cannot be read: .*{reason}") as failure:
                await asyncio.wait_for(asked, 60)
            assert failure.value.kind == "failed"

    run(body())


def test_no_answer_of_a_replica_harms_the_head():
    async def body():
        async with one_request() as (client, asked, replica, peer):
            for seed in range(3):
                for frames in garbage(seed, FROM_REPLICA):
                    await replica.send_multipart([peer, *frames])
            await replica.send_multipart([peer, *pack(Output("1", GenerationResult(steps=7)))])
            with contextlib.suppress(RequestError):  # one of them may be a failure of the request
                assert (await asyncio.wait_for(asked, 60)).steps == 7
            assert not any(task.done() for task in client._tasks), "it still listens"

    run(body())
