"""When a silent, suspended or dead process is noticed."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
import zmq
import zmq.asyncio

from omni_worker.coordinator.hub import Hub
from omni_worker.coordinator.messages import (
    ReplicaState,
)
from omni_worker.replica.client import ReplicaClient
from omni_worker.requests import GenerationParams
from omni_worker.transport.sockets import make_socket

from ..serving import free_ports
from .live_fleet import Client, eventually, running


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


STOPPABLE = """
import asyncio, sys
from tests.worker.coordinator.live_fleet import Client
async def main():
    client = Client("child", int(sys.argv[1]), None)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@contextlib.contextmanager
def replica_process(port):
    process = subprocess.Popen([sys.executable, "-c", STOPPABLE, str(port)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.processes
def test_a_process_that_is_stopped_falls_silent_and_is_up_again_when_it_goes_on():
    async def body():
        async with running(timeout=2.0) as fleet:
            with replica_process(fleet.ports[0]) as process:
                await eventually(lambda: fleet.states() == {"child": ReplicaState.UP})
                os.kill(process.pid, signal.SIGSTOP)
                stopped = time.monotonic()
                await eventually(lambda: fleet.states() == {"child": ReplicaState.ERROR})
                silence = time.monotonic() - stopped
                assert fleet.timeout - fleet.heartbeat - 0.2 < silence < fleet.timeout + 1.0
                os.kill(process.pid, signal.SIGCONT)
                assert (
                    await eventually(lambda: fleet.states() == {"child": ReplicaState.UP}) < 2 * fleet.heartbeat + 1.0
                )
                assert fleet.view["child"].replica_id == 0

    run(body())


@pytest.mark.processes
def test_a_head_that_was_stopped_for_longer_than_the_timeout_blames_nobody():
    head = [
        sys.executable,
        "-c",
        "import asyncio, sys\nfrom tests.worker.coordinator.live_fleet import Fleet\n"
        "async def main():\n"
        "    fleet = Fleet(timeout=1.5); fleet.ports = list(map(int, sys.argv[1:])); fleet.start()\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())",
    ]

    async def body():
        ports = free_ports(3)
        process = subprocess.Popen([*head, *map(str, ports)])  # noqa: ASYNC220 - takes a moment, and only this waits
        seen = []
        hub = Hub(f"tcp://127.0.0.1:{ports[2]}", lambda changed: seen.extend(one.state for one in changed))
        client = Client("u", ports[0], None)
        try:
            hub.start()
            await eventually(lambda: seen[-1:] == [ReplicaState.UP])
            os.kill(process.pid, signal.SIGSTOP)
            await asyncio.sleep(3.0)
            assert not client.is_registered
            os.kill(process.pid, signal.SIGCONT)
            await eventually(lambda: client.is_registered, 10.0)
            await asyncio.sleep(1.0)
            assert ReplicaState.ERROR not in seen
        finally:
            process.kill()
            process.wait()
            await client.stop()
            await hub.stop()

    run(body())


def test_a_lost_connection_is_noticed_long_before_the_heartbeat_timeout():
    async def body():
        async with running(timeout=30.0) as fleet:
            client = fleet.client("a")
            await eventually(lambda: fleet.states() == {"a": ReplicaState.UP})
            (port,) = free_ports(1)
            data = make_socket(zmq.asyncio.Context.instance(), zmq.ROUTER)
            data.bind(f"tcp://127.0.0.1:{port}")
            key = fleet.view["a"].key
            talker = ReplicaClient(
                f"tcp://127.0.0.1:{port}", lambda is_open: is_open or fleet.coordinator.on_disconnect(key, "a")
            )
            asked = asyncio.create_task(talker.generate("1", GenerationParams(prompt="x"), lambda news: None))
            await data.recv_multipart()
            await client.stop()
            data.close(linger=0)
            took = await eventually(lambda: fleet.states() == {"a": ReplicaState.ERROR})
            assert took < fleet.timeout / 10
            await asyncio.gather(asked, return_exceptions=True)
            await talker.close()

    run(body())


def test_the_dead_are_noticed_when_their_timeout_is_over_and_not_much_later():
    async def body():
        async with running(timeout=1.5) as fleet:
            client = fleet.client("a")
            await eventually(lambda: fleet.states() == {"a": ReplicaState.UP})
            await client.stop()
            took = await eventually(lambda: fleet.states() == {"a": ReplicaState.ERROR})
            assert fleet.timeout - fleet.heartbeat - 0.2 < took < fleet.timeout + 0.5

    run(body())
