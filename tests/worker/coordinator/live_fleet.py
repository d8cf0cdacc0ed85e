"""A coordinator and the clients of replicas on real loopback sockets, in one event loop."""

import asyncio
import contextlib
import time

from omni_worker.coordinator.coordinator import Coordinator, CoordinatorPorts
from omni_worker.coordinator.hub import Hub
from omni_worker.coordinator.messages import ReplicaLoad, ReplicaState
from omni_worker.coordinator.stage_client import StageClient

from ..serving import free_ports
from .builders import make_registry, registration

HOST = "127.0.0.1"


class Fleet:
    """A coordinator, a hub and clients. The head can start and stop any number of times, on the same ports."""

    def __init__(self, timeout=3.0, keys=None, host=HOST):
        self.ports = free_ports(3)
        self.timeout, self.keys, self.host = timeout, keys, host
        self.view, self.log = {}, []
        self._clients = []
        self.coordinator = self.hub = None

    @property
    def heartbeat(self):
        return self.coordinator.heartbeat_seconds

    def start(self, hub=True):
        self.registry = make_registry(self.timeout)
        self.coordinator = Coordinator(self.registry, self.host, CoordinatorPorts(*self.ports), self.timeout, self.keys)
        self.coordinator.start()
        if hub:
            self.hub = Hub(f"tcp://{HOST}:{self.ports[2]}", self._on_change, self.keys)
            self.hub.start()

    async def stop(self):
        if self.hub:
            await self.hub.stop()
        self.hub = None
        if self.coordinator:
            await self.coordinator.stop()
        self.coordinator = None
        await asyncio.sleep(0.1)  # ZeroMQ frees the ports in a thread of its own

    def client(self, uid="u", keys=..., **kwargs):
        client = Client(uid, self.ports[0], self.keys if keys is ... else keys, **kwargs)
        self._clients.append(client)
        return client

    async def close(self):
        for client in self._clients:
            await client.stop()
        await self.stop()

    def _on_change(self, changed):
        for replica in changed:
            self.log.append((time.monotonic(), replica.uid, replica.state))
            if replica.state is ReplicaState.DOWN:
                self.view.pop(replica.uid, None)
            else:
                self.view[replica.uid] = replica

    def states(self):
        return {uid: replica.state for uid, replica in self.view.items()}


class Client:
    """A replica's client for membership, with a state and a load to report."""

    def __init__(self, uid, port, keys, host=HOST, **greeting):
        self.state, self.load, self.membership = ReplicaState.UP, ReplicaLoad(), None
        self.client = StageClient(
            registration(uid, **greeting, number=0),
            host,
            port,
            state=lambda: self.state,
            load=lambda: self.load,
            on_change=self._on_change,
            keys=keys,
        )
        self.start()

    def start(self):
        self._task = asyncio.create_task(self.client.run())

    async def stop(self):
        """End without a last report, as a killed process does."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def leave(self):
        self.state = ReplicaState.DOWN
        await self.client.report_now()

    @property
    def is_registered(self):
        return self.client.status.is_registered(time.monotonic())

    @property
    def refusal(self):
        return self.client.status.refusal

    def _on_change(self, membership):
        self.membership = membership


@contextlib.asynccontextmanager
async def running(**kwargs):
    """A started fleet, which is closed at the end."""
    fleet = Fleet(**kwargs)
    fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()


async def eventually(check, seconds=60.0):
    """Wait until `check` is true, and return the seconds that it took."""
    began = time.monotonic()
    while not check():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - began
