"""The coordinators that benchmarks/membership.py compares ours with. It says what they stand for."""

import asyncio
import json
import time

import zmq
import zmq.asyncio
from msgspec.structs import replace

from omni_worker.coordinator.messages import (
    Acknowledged,
    Delta,
    Register,
    ReplicaTable,
    decode_report,
    encode,
)
from omni_worker.coordinator.registry import Registry
from omni_worker.transport.sockets import make_socket

HOST = "127.0.0.1"
TIMEOUT_SECONDS = 2.5
NAIVE_SNAPSHOT_SECONDS = 2.0
PEER_PUBLISH_SECONDS = 0.1


class Naive:
    """Each heartbeat wakes the loop, is answered, and is published with everything."""

    def __init__(self, ports: list[int], hellos: list[Register]) -> None:
        context = zmq.asyncio.Context.instance()
        self._reports, self._out = make_socket(context, zmq.ROUTER), make_socket(context, zmq.XPUB)
        self._reports.bind(f"tcp://{HOST}:{ports[1]}")
        self._out.bind(f"tcp://{HOST}:{ports[2]}")
        registry = Registry({0: "d" * 16}, {0: "diffusion"}, TIMEOUT_SECONDS)
        self._replicas = {replica.key: replica for replica, _ in (registry.register(one, 0.0) for one in hellos)}
        self._sequence = 0
        self._tasks = [asyncio.create_task(self._hear()), asyncio.create_task(self._tell_all())]

    async def _hear(self) -> None:
        while True:
            peer, frame = await self._reports.recv_multipart()
            report = decode_report(frame)
            key = report.stage_id, report.replica_id
            self._replicas[key] = replica = replace(self._replicas[key], state=report.state, load=report.load)
            await self._reports.send_multipart([peer, encode(Acknowledged(incarnation="i" * 16, count=report.count))])
            self._sequence += 1
            await self._out.send(
                encode(Delta(incarnation="i" * 16, sequence=self._sequence, changed=ReplicaTable.of([replica])))
            )

    async def _tell_all(self) -> None:
        while True:
            await asyncio.sleep(NAIVE_SNAPSHOT_SECONDS)
            everything = b"".join(encode(ReplicaTable.of([one])) for one in self._replicas.values())
            await self._out.send(everything)


class Peer:
    """The whole list as JSON, a tenth of a second after any news."""

    def __init__(self, ports: list[int], hellos: list[Register]) -> None:
        context = zmq.asyncio.Context.instance()
        self._reports, self._out = make_socket(context, zmq.ROUTER), make_socket(context, zmq.XPUB)
        self._reports.bind(f"tcp://{HOST}:{ports[1]}")
        self._out.bind(f"tcp://{HOST}:{ports[2]}")
        self._replicas = {
            number: {
                "input_addr": one.address, "output_addr": one.address, "stage_id": 0, "status": "up",
                "queue_length": 0, "last_heartbeat": time.time(), "registered_at": time.time(),
            }
            for number, one in enumerate(hellos)
        }  # fmt: skip
        self._is_new = False
        self._tasks = [asyncio.create_task(self._hear()), asyncio.create_task(self._tell_all())]

    async def _hear(self) -> None:
        while True:
            _, frame = await self._reports.recv_multipart()
            event = json.loads(frame)
            self._replicas[event["replica"]].update(queue_length=event["queue_length"], last_heartbeat=time.time())
            self._is_new = True

    async def _tell_all(self) -> None:
        while True:
            await asyncio.sleep(PEER_PUBLISH_SECONDS)
            if self._is_new:
                self._is_new = False
                everything = {"replicas": list(self._replicas.values()), "timestamp": time.time()}
                await self._out.send(json.dumps(everything).encode())
