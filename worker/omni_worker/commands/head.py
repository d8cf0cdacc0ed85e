"""Composes a head process: HTTP API, orchestrator, master, coordinator, and local replicas as child processes."""

import asyncio
import functools
import logging
import time

from prometheus_client import CollectorRegistry, ProcessCollector

from omni_worker.addresses import reachable, tcp_address
from omni_worker.api.app import create_app
from omni_worker.api.http.server import HttpServer
from omni_worker.api.probes import Probes
from omni_worker.commands.stop_signals import stop_on_signals, wait_for_stop
from omni_worker.config.records import HeadConfig, ServeConfig
from omni_worker.config.stages import read_stages
from omni_worker.config.watched_file import WatchedFile
from omni_worker.coordinator.coordinator import Coordinator, CoordinatorPorts
from omni_worker.coordinator.hub import Hub
from omni_worker.coordinator.messages import Replica
from omni_worker.coordinator.metrics_collector import MembershipCollector
from omni_worker.coordinator.registry import Registry
from omni_worker.errors import UsageError
from omni_worker.orchestrator.balancers import make_balancer
from omni_worker.orchestrator.endpoint_pools import endpoint_pool
from omni_worker.orchestrator.lora_library import LoraLibrary
from omni_worker.orchestrator.metrics_collector import PoolCollector, ResultCacheCollector
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.orchestrator.result_cache import ResultCache
from omni_worker.orchestrator.stage_pool import StagePool
from omni_worker.parallel.fork_server import ForkServer
from omni_worker.replica.metrics_collector import ChildCollector
from omni_worker.replica.supervisor import Supervisor
from omni_worker.telemetry import tracing
from omni_worker.telemetry.metrics import AccessMetrics, HeadMetrics
from omni_worker.transport import keys
from omni_worker.transport.sockets import raise_socket_limits

log = logging.getLogger(__name__)
FILE_CHECK_SECONDS = 1.0


async def run_head(config: ServeConfig, head: HeadConfig, fork_server: ForkServer | None) -> None:
    """Serve until SIGTERM or SIGINT, and then drain. Raises CommandError if it cannot start."""
    stop = stop_on_signals()
    raise_socket_limits()
    secret = keys.read(config.secret_file)
    replica_registry = Registry(
        {id: model.digest for id, model in head.models.items()},
        {stage.id: stage.engine for stage in head.stages if stage.endpoint is None},
        head.heartbeat_timeout,
    )
    coordinator = Coordinator(
        replica_registry,
        head.master_address,
        CoordinatorPorts(config.master_port, head.coordinator_port, head.coordinator_pub_port),
        head.heartbeat_timeout,
        secret,
    )
    pools, servers = [], []
    for stage in head.stages:
        balancer = make_balancer(head.lb_policy)
        if stage.endpoint is None:
            pools.append(StagePool(stage, balancer, coordinator.on_disconnect, secret))
        else:
            pool, health = endpoint_pool(stage, stage.endpoint, balancer)
            pools.append(pool)
            servers.append(health)
    coordinator.on_unfit = functools.partial(_note_refusal, pools)
    publisher = tcp_address(reachable(head.master_address), head.coordinator_pub_port)
    loras = LoraLibrary(pools, head.api.loras)
    loras.set_spec({stage.id: stage.loras for stage in head.stages})
    hub = Hub(publisher, functools.partial(_update_pools, pools, loras), secret)
    supervisor = Supervisor(config, fork_server)
    metrics = CollectorRegistry()
    ProcessCollector(registry=metrics)
    metrics.register(PoolCollector(pools, replica_registry.silence))
    metrics.register(MembershipCollector(coordinator, hub))
    metrics.register(ChildCollector(supervisor.children))
    spans = tracing.start(config.traces_endpoint, "head")
    results = ResultCache(head.api.result_cache_bytes)
    metrics.register(ResultCacheCollector(results))
    head_metrics = HeadMetrics(metrics, [stage.name for stage in head.stages])
    orchestrator = Orchestrator(pools, head_metrics, spans, loras, results)
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
    following = [asyncio.create_task(loras.run()), *(asyncio.create_task(health.run()) for health in servers)]
    if head.stage_config is not None:
        following.append(asyncio.create_task(_follow_loras(head.stage_config, loras)))
    try:
        await wait_for_stop(stop, replicas, serving)
    finally:
        server.drain()
        await serving
        await supervisor.drain()
        for task in (replicas, *following):
            task.cancel()
        await asyncio.gather(replicas, *following, return_exceptions=True)
        for pool in pools:
            await pool.close()
        await hub.stop()
        await coordinator.stop()
        await asyncio.to_thread(spans.close)


def _update_pools(pools: list[StagePool], loras: LoraLibrary, changed: list[Replica]) -> None:
    """Pass changed replicas from the hub to the pools of their stages."""
    by_stage = {pool.stage.id: pool for pool in pools}
    for replica in changed:
        if replica.stage_id in by_stage:
            by_stage[replica.stage_id].update(replica)
    loras.on_replicas(changed)


async def _follow_loras(file: str, loras: LoraLibrary) -> None:
    """Take over each change of the adapters in the file that lists the stages, until cancelled."""
    watched = WatchedFile(file)
    while True:
        await asyncio.sleep(FILE_CHECK_SECONDS)
        if watched.has_changed():
            try:
                stages = read_stages(file)
            except UsageError as error:
                log.error("%s; its adapters stay as they were", error)
            else:
                loras.set_spec({stage.id: stage.loras for stage in stages})


def _note_refusal(pools: list[StagePool], stage_id: int) -> None:
    """A replica does not fit the stage that it names."""
    for pool in pools:
        if pool.stage.id == stage_id:
            pool.refused_at = time.monotonic()


def _why_not_ready(pools: list[StagePool]) -> str | None:
    """The reason why the head cannot answer requests; None if it can.

    A server outside the pipeline is none: the head would answer no better if nobody could reach it, and its errors say
    what is wrong.
    """
    waiting = [pool.stage.name for pool in pools if pool.stage.endpoint is None and not pool.is_ready]
    return f"no replica is up for: {', '.join(waiting)}" if waiting else None
