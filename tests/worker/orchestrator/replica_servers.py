"""Real replica servers over engines whose steps only sleep, and an orchestrator, in one event loop."""

import asyncio
import contextlib
import time

import numpy as np
from prometheus_client import CollectorRegistry

from omni_worker.config.records import Stage
from omni_worker.coordinator.messages import ReplicaState
from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.runner import Runner
from omni_worker.engine.scheduler import RequestOutput, RunnerOutput, StepScheduler
from omni_worker.orchestrator.balancers import make_balancer
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.orchestrator.stage_pool import StagePool
from omni_worker.replica.server import ReplicaServer
from omni_worker.requests import GenerationParams, GenerationRequest, GenerationResult
from omni_worker.telemetry.metrics import HeadMetrics

from ..serving import free_ports
from . import pools

STEP_SECONDS = 0.02
IMAGE = np.zeros((8, 8, 3), np.uint8)


class SleepingRunner(Runner):
    """Runs each request for its number of steps; a step of a batch takes `seconds`. Records requests as they begin.

    `failure`: what every request fails with, as on a broken device; None lets them succeed. A request whose prompt is
    `poison` always fails. `images`: the result of every request.
    """

    def __init__(self, seconds=STEP_SECONDS):
        self.seconds = seconds
        self.begun, self.running, self.failure, self.poisoned = [], {}, None, set()
        self.images = [IMAGE]

    def execute(self, output):
        for id in output.finished:
            self.running.pop(id, None)
        for request in output.new:
            self.begun.append(request.id)
            self.running[request.id] = [0, request.payload.steps]
            if request.payload.prompt == "poison":
                self.poisoned.add(request.id)
        if output.cached:
            time.sleep(self.seconds)
        for id in output.cached:
            self.running[id][0] += 1
        ids = [request.id for request in output.new] + list(output.cached)
        return RunnerOutput(output.step_id, tuple(self._outcome(id) for id in ids))

    def _outcome(self, id):
        step, steps = self.running[id]
        if self.failure is not None or id in self.poisoned:
            return RequestOutput(id, step=step, error=self.failure or RuntimeError("no such shape"))
        result = GenerationResult(images=self.images, steps=steps) if step == steps else None
        return RequestOutput(id, None if result else "key", step=step, total_steps=steps, result=result)

    def stats(self):
        return {}

    def close(self):
        self.running.clear()


class Server:
    """One replica: its server and its engine."""

    def __init__(self, number, max_num_seqs=8, max_waiting=None):
        self.number, self.uid = number, f"u{number}"
        (self.port,) = free_ports(1)
        self.runner = SleepingRunner()
        self.server = ReplicaServer(max_num_seqs)
        scheduler = StepScheduler(max_num_seqs, max_waiting=max_waiting)
        self.engine = self.server.engine = Engine(scheduler, UniProcExecutor(self.runner), self.server.on_event)
        self.engine.start()
        self.server.bind("127.0.0.1", self.port)
        self._task = asyncio.create_task(self.server.run())

    def published(self, state=ReplicaState.UP, **load):
        """The replica as the coordinator publishes it."""
        replica = pools.replica(self.number, state, self.uid, **load)
        return type(replica)(
            **{name: getattr(replica, name) for name in replica.__struct_fields__}
            | {"address": f"tcp://127.0.0.1:{self.port}"}
        )

    async def crash(self):
        """Close all connections, as a killed process does."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self.server._socket.close(linger=0)
            await asyncio.to_thread(self.engine.stop)

    close = crash


class ServedStage:
    """An orchestrator with one stage of `count` replicas."""

    def __init__(self, count, policy="least-queue-length", **server):
        self.registry = CollectorRegistry()
        self.servers = [Server(number, **server) for number in range(count)]
        self.head()

    def head(self):
        """Start a head; a second call starts another head."""
        self.lost = []
        self.pool = StagePool(Stage(0, "painter"), make_balancer("least-queue-length"), self._on_disconnect)
        self.orchestrator = Orchestrator([self.pool], HeadMetrics(CollectorRegistry()))
        for server in self.servers:
            self.pool.update(server.published())

    def _on_disconnect(self, key, uid):
        self.lost.append(uid)

    def publish(self, number, state):
        self.pool.update(self.servers[number].published(state))

    def begin(self, id, steps=10, prompt="p"):
        params = GenerationParams(prompt=prompt, steps=steps)
        return asyncio.create_task(self.orchestrator.generate(GenerationRequest(id=id, params=params)))

    def where(self, id):
        """The number of the server that runs the request, or None."""
        running = self.orchestrator.running.get(id)
        return int(running.replica.rpartition("-")[2]) if running and running.step else None

    async def under_way(self, *ids):
        await eventually(lambda: all(self.where(id) is not None for id in ids))
        return [self.where(id) for id in ids]


@contextlib.asynccontextmanager
async def serving(count, **server):
    """An orchestrator with one stage. Closes everything at the end."""
    stage = ServedStage(count, **server)
    try:
        yield stage
    finally:
        await stage.pool.close()
        for server in stage.servers:
            await server.close()


async def eventually(check, seconds=60.0):
    """Wait until `check` is true."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(0.005)
