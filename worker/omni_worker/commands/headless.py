"""Composes a headless process: replicas of one stage, and probes. It may start before the heads that it joins."""

import asyncio

from prometheus_client import CollectorRegistry, ProcessCollector
from starlette.applications import Starlette

from omni_worker.api.http.server import HttpServer
from omni_worker.api.probes import Probes
from omni_worker.commands.stop_signals import stop_on_signals, wait_for_stop
from omni_worker.config.records import ServeConfig
from omni_worker.parallel.fork_server import ForkServer
from omni_worker.replica.metrics_collector import ChildCollector
from omni_worker.replica.supervisor import Supervisor


async def run_headless(config: ServeConfig, fork_server: ForkServer | None) -> None:
    """Serve until SIGTERM or SIGINT, and then drain. Raises CommandError if it cannot start."""
    supervisor = Supervisor(config, fork_server)
    metrics = CollectorRegistry()
    ProcessCollector(registry=metrics)
    metrics.register(ChildCollector(supervisor.children))
    probes = Probes(
        started=lambda: supervisor.why_not_loaded,
        ready=lambda: _why_not_ready(supervisor),
    )
    server = HttpServer(Starlette(routes=probes.routes(metrics)), config.host, config.port, config.drain_timeout)
    stop = stop_on_signals()
    replicas = asyncio.create_task(supervisor.run())
    probing = asyncio.create_task(server.run())
    try:
        await wait_for_stop(stop, replicas, probing)
        await supervisor.drain()
    finally:
        replicas.cancel()
        await asyncio.gather(replicas, return_exceptions=True)
        server.drain()
        await probing


def _why_not_ready(supervisor: Supervisor) -> str | None:
    """The reason why the process serves nothing yet or any more; None if all its replicas are registered."""
    for child in supervisor.children:
        if child.phase == "draining":
            return "draining"
        if not child.is_registered:
            return child.refusal or f"replica {child.index} is {child.phase} and not registered with the head"
    return None
