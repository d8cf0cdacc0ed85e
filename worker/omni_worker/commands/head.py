"""A head process: HTTP API, orchestrator, master, coordinator, and its own replicas as child processes."""

import asyncio
import functools
import signal

from prometheus_client import CollectorRegistry, ProcessCollector

from omni_worker.api.app import create_app
from omni_worker.api.probes import Probes
from omni_worker.api.server import HttpServer, wait_for_stop
from omni_worker.config.records import HeadConfig, ServeConfig
from omni_worker.coordinator.coordinator import Coordinator
from omni_worker.coordinator.hub import Hub
from omni_worker.coordinator.messages import Replica
from omni_worker.coordinator.metrics_collector import MembershipCollector
from omni_worker.coordinator.registry import Registry
from omni_worker.orchestrator.balancers import make_balancer
from omni_worker.orchestrator.metrics_collector import PoolCollector
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.orchestrator.stage_pool import StagePool
from omni_worker.replica.metrics_collector import ChildCollector
from omni_worker.replica.supervisor import Supervisor
from omni_worker.telemetry import tracing
from omni_worker.telemetry.metrics import HeadMetrics
from omni_worker.transport import keys
from omni_worker.transport.sockets import allow_many


async def run_head(config: ServeConfig, head: HeadConfig) -> None:
    """Serve until SIGTERM has been obeyed. Raises CommandError where it cannot start."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    allow_many()
    secret = keys.read(config.secret_file)
    fleet = Registry(
        {id: model.digest for id, model in head.models.items()},
        {stage.id: stage.engine for stage in head.stages},
        head.heartbeat_timeout,
    )
    coordinator = Coordinator(
        fleet,
        head.master_address,
        config.master_port,
        head.coordinator_port,
        head.coordinator_pub_port,
        head.heartbeat_timeout,
        secret,
    )
    pools = [StagePool(stage, make_balancer(head.lb_policy), coordinator.lost, secret) for stage in head.stages]
    publisher = f"tcp://{_loopback(head.master_address)}:{head.coordinator_pub_port}"
    hub = Hub(publisher, functools.partial(_route, pools), secret)
    supervisor = Supervisor(config)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(PoolCollector(pools, fleet.silence))
    registry.register(MembershipCollector(coordinator, hub))
    registry.register(ChildCollector(supervisor.children))
    told = tracing.start(config.traces_endpoint, "head")
    orchestrator = Orchestrator(pools, HeadMetrics(registry, [stage.name for stage in head.stages]), told)
    probes = Probes(
        started=lambda: None,  # the ports are bound before the first request is answered
        ready=lambda: "draining" if stop.is_set() else _why_not_ready(pools),
    )
    app = create_app(orchestrator, config.served_model_name, probes.routes(registry), head.api, told)
    server = HttpServer(app, config.host, config.port, config.drain_timeout, head.api.certificate)
    coordinator.start()
    hub.start()
    replicas = asyncio.create_task(supervisor.run() if supervisor.children else asyncio.Event().wait())
    serving = asyncio.create_task(server.run())
    try:
        await wait_for_stop(stop, replicas, serving)
    finally:
        server.drain()
        await serving
        await supervisor.drain()
        replicas.cancel()
        await asyncio.gather(replicas, return_exceptions=True)
        for pool in pools:
            await pool.close()
        await hub.stop()
        await coordinator.stop()
        await asyncio.to_thread(told.close)


def _route(pools: list[StagePool], changed: list[Replica]) -> None:
    by_stage = {pool.stage.id: pool for pool in pools}
    for replica in changed:
        if replica.stage_id in by_stage:
            by_stage[replica.stage_id].update(replica)


def _why_not_ready(pools: list[StagePool]) -> str | None:
    waiting = [pool.stage.name for pool in pools if not pool.is_ready]
    return f"no replica is up for: {', '.join(waiting)}" if waiting else None


def _loopback(address: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]", "*": "127.0.0.1"}.get(address, address)
