"""A real client and a real server over a socket: shared memory, and heads that are suspended, killed or never read."""

import asyncio
import gc
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zmq
import zmq.asyncio

from omni_worker.config.api import Limits
from omni_worker.errors import RequestError
from omni_worker.replica import client as client_module
from omni_worker.replica.wire import outbox as outbox_module
from omni_worker.replica.wire.messages import (
    Add,
    Rpc,
    pack,
)
from omni_worker.requests import GenerationParams
from omni_worker.transport import sockets
from omni_worker.transport.keys import CurveKeys
from tests.worker.engine.executor.process_resources import descriptors, mappings
from tests.worker.replica.data_connection import ReceivedUpdates, ask, eventually, serving
from tests.worker.replica.wire.arrays import MIB, same


@pytest.mark.parametrize("keys", [None, CurveKeys.from_secret(b"s" * 32)], ids=["in the clear", "encrypted"])
def test_both_ways_share_memory_after_the_first_and_places_are_let_go(keys):
    async def body():
        async with serving(keys) as (server, _, connect):
            client = connect()
            array = np.random.default_rng(0).integers(0, 256, MIB, np.uint8)
            server.engine.keeps = True
            for number in range(5):
                result = await ask(client, str(number), "echo", a=array)
                assert same(array, result.embeddings["a"])
                await asyncio.sleep(0.05)
            (peer,) = server._outgoing._peers.values()
            assert peer.link.blocks_in_use == 1, "the last answer, which is still here"
            assert 3 <= client._link.blocks_in_use <= 4, "what the engine keeps"
            del result
            server.engine.kept.clear()
            gc.collect()
            await eventually(lambda: peer.link.blocks_in_use == client._link.blocks_in_use == 0)

    asyncio.run(body())


def test_an_end_that_shares_no_memory_gets_and_gives_the_same_in_messages():
    async def body():
        async with serving() as (server, _, connect):
            client = connect(shares_memory=False)
            array = np.random.default_rng(0).integers(0, 256, (1000, 1001), np.uint8)
            for number in range(4):
                assert same(array, (await ask(client, str(number), "echo", a=array)).embeddings["a"])
            assert not any(peer.link.has_pools for peer in server._outgoing._peers.values())

    asyncio.run(body())


def test_what_is_too_large_to_be_sent_fails_alone(monkeypatch):
    """Its neighbours keep their connection."""
    monkeypatch.setattr(client_module, "MAX_MESSAGE_BYTES", MIB)
    monkeypatch.setattr(outbox_module, "MAX_RESULT_BYTES", MIB // 4)

    async def body():
        async with serving() as (_, _, connect):
            client = connect()
            neighbour = asyncio.create_task(ask(client, "neighbour", "rest"))
            with pytest.raises(RequestError, match="the inputs of this stage have") as sending:
                await ask(client, "large request", "echo", a=np.zeros(MIB, np.uint8))
            with pytest.raises(RequestError, match="the result has") as receiving:
                await ask(client, "large result", "echo", a=np.zeros(MIB // 2, np.uint8))
            assert sending.value.kind == receiving.value.kind == "invalid"
            await ask(client, "small", "echo", a=np.zeros(1000, np.uint8))
            assert not neighbour.done()
            neighbour.cancel()

    asyncio.run(body())


def test_the_head_takes_every_result_that_a_replica_may_send():
    async def body():
        async with serving() as (_, _, connect):
            socket = connect()._socket
            assert socket.getsockopt(zmq.MAXMSGSIZE) == sockets.MAX_RESULT_BYTES > sockets.MAX_MESSAGE_BYTES
            seconds = socket.getsockopt(zmq.HEARTBEAT_TIMEOUT) / 1000
            assert seconds * 100e6 > 3 * Limits().video_pixels, "the largest video by default comes at 100 MB/s"

    asyncio.run(body())


def test_many_large_requests_at_once_are_answered_and_all_differ():
    async def body():
        async with serving() as (_, _, connect):
            client = connect()
            sent = [np.full(3 * MIB, number, np.uint8) for number in range(80)]
            got = await asyncio.gather(*(ask(client, str(i), "echo", a=array) for i, array in enumerate(sent)))
            assert all(same(array, one.embeddings["a"]) for array, one in zip(sent, got, strict=True))

    asyncio.run(body())


HEAD = """
import asyncio, sys
import numpy as np
from omni_worker.replica.client import ReplicaClient
from tests.worker.replica.data_connection import ReceivedUpdates, ask

async def main():
    client = ReplicaClient(f"tcp://127.0.0.1:{sys.argv[1]}", lambda is_open: None)
    result = [await ask(client, f"first-{i}", "echo", a=np.ones(1 << 20, np.uint8)) for i in range(3)]
    print("ready", flush=True)
    sys.stdin.readline()
    updates = ReceivedUpdates()
    asked = asyncio.create_task(ask(client, "long", sys.argv[2], updates))
    while not updates.pieces:
        await asyncio.sleep(0.01)
    print("begun", flush=True)
    await asked
    whole = "".join(f"{i} " for i in range(int(sys.argv[2].split()[-1])))
    print(updates.text == whole, updates.pieces, len(updates.previews))

asyncio.run(main())
"""


class HeadProcess:
    """A head in its own process."""

    def __init__(self, port, prompt):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.process = subprocess.Popen([sys.executable, "-c", HEAD, str(port), prompt], **pipes)

    async def line(self):
        return (await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), 60)).split()

    def go(self):
        self.process.stdin.write("\n")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.processes
def test_a_head_that_is_stopped_grows_no_queue_holds_up_nobody_and_misses_nothing():
    async def body():
        async with serving() as (server, port, connect):
            head, other = HeadProcess(port, "write 3000"), connect()
            try:
                assert await head.line() == ["ready"]
                await ask(other, "warm", "write 100")
                before = resident()
                head.go()
                assert await head.line() == ["begun"]
                head.process.send_signal(signal.SIGSTOP)
                (peer,) = {server._requests[id].peer for id in server._requests}
                updates = ReceivedUpdates()
                await ask(other, "other", "write 300", updates)
                assert updates.text == "".join(f"{i} " for i in range(300))
                await eventually(lambda: "long" not in server._requests)
                assert len(server._outgoing.peer(peer).outbox) < 10
                assert resident() - before < 300 * MIB, "of which 300 previews of 1 MiB were made"
                head.process.send_signal(signal.SIGCONT)
                whole, pieces, previews = await head.line()
                assert whole == "True"
                assert int(pieces) < 3000
                assert int(previews) < 300
            finally:
                head.close()

    asyncio.run(body())


@pytest.mark.processes
def test_a_head_that_is_killed_leaves_nothing_behind():
    async def body():
        async with serving() as (server, port, _):
            before = len(descriptors())
            head = HeadProcess(port, "rest")
            assert await head.line() == ["ready"]
            assert mappings("omni-pool") == 2
            head.close()
            await eventually(lambda: not server._outgoing._peers)
            gc.collect()
            assert mappings("omni-pool") == 0
            assert len(descriptors()) <= before

    asyncio.run(body())


def test_one_who_asks_and_asks_and_never_reads_is_not_answered_without_bound(monkeypatch):
    monkeypatch.setattr(outbox_module, "MAX_ANSWERS", 50)
    monkeypatch.setattr(outbox_module, "MAX_REFUSALS", 200)

    async def body():
        async with serving() as (server, port, connect):
            stranger = zmq.asyncio.Context.instance().socket(zmq.DEALER)
            stranger.set(zmq.RCVHWM, 1)
            stranger.set(zmq.RCVBUF, 4096)
            stranger.connect(f"tcp://127.0.0.1:{port}")
            array = np.ones(60_000, np.uint8)
            for number in range(600):
                params = GenerationParams(prompt="echo", embeddings={"a": array})
                await stranger.send_multipart(pack(Add(f"stranger-{number}", params)))
                if number == 300:
                    assert (await ask(connect(), "other", "echo", a=array)).embeddings
            await stranger.send_multipart(pack(Rpc("last", "stats")))
            await eventually(lambda: server._ignored_peers)
            (deaf,) = server._ignored_peers
            assert len(server._outgoing.peer(deaf).outbox) <= 201 + 50
            assert (await ask(connect(), "another", "echo", a=array)).embeddings
            stranger.close(linger=0)
            await eventually(lambda: not server._ignored_peers)

    asyncio.run(body())
