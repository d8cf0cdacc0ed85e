"""Composes a head process: HTTP API, orchestrator, master, coordinator, and local replicas as child processes."""

import asyncio
import functools

from prometheus_client import CollectorRegistry, ProcessCollector

from omni_worker.api.app import create_app
from omni_worker.api.http.server import HttpServer
from omni_worker.api.probes import Probes
from omni_worker.commands.stop_signals import stop_on_signals, wait_for_stop
from omni_worker.config.records import HeadConfig, ServeConfig
from omni_worker.coordinator.coordinator import Coordinator, CoordinatorPorts
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
from omni_worker.telemetry.metrics import AccessMetrics, HeadMetrics
from omni_worker.transport import keys
from omni_worker.transport.sockets import raise_socket_limits


async def run_head(config: ServeConfig, head: HeadConfig) -> None:
    """Serve until SIGTERM or SIGINT, and then drain. Raises CommandError if it cannot start."""
    stop = stop_on_signals()
    raise_socket_limits()
    secret = keys.read(config.secret_file)
    replica_registry = Registry(
        {id: model.digest for id, model in head.models.items()},
        {stage.id: stage.engine for stage in head.stages},
        head.heartbeat_timeout,
    )
    coordinator = Coordinator(
        replica_registry,
        head.master_address,
        CoordinatorPorts(config.master_port, head.coordinator_port, head.coordinator_pub_port),
        head.heartbeat_timeout,
        secret,
    )
    pools = [
        StagePool(stage, make_balancer(head.lb_policy), coordinator.on_disconnect, secret) for stage in head.stages
    ]
    publisher = f"tcp://{_connectable(head.master_address)}:{head.coordinator_pub_port}"
    hub = Hub(publisher, functools.partial(_update_pools, pools), secret)
    supervisor = Supervisor(config)
    metrics = CollectorRegistry()
    ProcessCollector(registry=metrics)
    metrics.register(PoolCollector(pools, replica_registry.silence))
    metrics.register(MembershipCollector(coordinator, hub))
    metrics.register(ChildCollector(supervisor.children))
    spans = tracing.start(config.traces_endpoint, "head")
    orchestrator = Orchestrator(pools, HeadMetrics(metrics, [stage.name for stage in head.stages]), spans)
    probes = Probes(
        started=lambda: None,  # the ports are bound before the first request is answered
        ready=lambda: "draining" if stop.is_set() else _why_not_ready(pools),
    )
    app = create_app(
        orchestrator, config.served_model_name, probes.routes(metrics), head.api, spans, AccessMetrics(metrics)
    )
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
        await asyncio.to_thread(spans.close)


def _update_pools(pools: list[StagePool], changed: list[Replica]) -> None:
    """Pass changed replicas from the hub to the pools of their stages."""
    by_stage = {pool.stage.id: pool for pool in pools}
    for replica in changed:
        if replica.stage_id in by_stage:
            by_stage[replica.stage_id].update(replica)


def _why_not_ready(pools: list[StagePool]) -> str | None:
    """The reason why the head cannot answer requests; None if it can."""
    waiting = [pool.stage.name for pool in pools if not pool.is_ready]
    return f"no replica is up for: {', '.join(waiting)}" if waiting else None


def _connectable(address: str) -> str:
    """The address at which this process reaches a socket that listens on `address`."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]", "*": "127.0.0.1"}.get(address, address)
