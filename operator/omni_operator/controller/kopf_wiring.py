"""Connects the operator to kopf: settings, handlers, and the run loop. kopf watches pipelines.

Handlers only call the operator. No timer, daemon or finalizer of kopf is used, so a pipeline can be deleted while no
operator runs.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import kopf
from aiohttp.web import AppRunner

from omni_operator.controller.kopf_session import kopf_session
from omni_operator.controller.operator import Operator
from omni_operator.controller.probe import serve_probe
from omni_operator.crd.spec.pipeline import GROUP, PLURAL, VERSION
from omni_operator.kube.client import WATCH_SECONDS, WATCH_SILENCE_SECONDS, Cluster
from omni_operator.kube.connection import REQUEST_SECONDS, Connection
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import PIPELINES

logger = logging.getLogger(__name__)

DEFINITION_POLL_SECONDS = 2.0
RELIST_SECONDS = 1.0
"""After an error in its watch, until kopf lists all pipelines again."""
END_SECONDS = 15.0
"""Time to stop in after a failure. After that, the process exits immediately."""


def wait_for_definition(cluster: Cluster, namespaces: tuple[str, ...]) -> None:
    """Wait until the API server answers and has the kind OmniPipeline.

    kopf would start without it, and then never see a pipeline. Raises ApiError if the server rejects the request for
    another reason.
    """
    while True:
        try:
            next(cluster.pages(PIPELINES, namespaces[0] if namespaces else None))
            logger.info("looks after %s", ", ".join(cluster.child_resources))
            if cluster.assigns_ids:
                logger.info("sets no group ids: the cluster assigns them")
            return
        except (ApiError, Unreachable) as error:
            is_missing = isinstance(error, ApiError) and error.status == 404
            if isinstance(error, ApiError) and not is_missing and not error.is_transient:
                raise
            logger.warning("%s; waiting", "the CRD is not installed" if is_missing else error)
            time.sleep(DEFINITION_POLL_SECONDS)


def run_operator(operator: Operator, connection: Connection, probe_port: int) -> None:
    """Run until SIGTERM, or until a thread or task of the operator ends. `probe_port`: where /healthz listens; 0 for no
    probe."""
    operator.background.on_failure = end_process
    kopf.run(
        registry=registry(operator, connection, probe_port),
        settings=settings(),
        standalone=True,
        clusterwide=not operator.namespaces,
        namespaces=operator.namespaces,
    )


def end_process() -> None:
    """Stop as SIGTERM does, which releases the Leases; and if that hangs, end anyway."""
    timer = threading.Timer(END_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
    os.kill(os.getpid(), signal.SIGTERM)


def registry(operator: Operator, connection: Connection, probe_port: int) -> kopf.OperatorRegistry:
    """kopf's handlers. Each only calls the operator."""
    handlers, probes = kopf.OperatorRegistry(), list[AppRunner]()

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return kopf_session(connection)

    @kopf.on.startup(registry=handlers)
    async def start(**_: Any) -> None:
        operator.start()
        if probe_port:
            probes.append(await serve_probe(probe_port, operator.require_healthy))

    @kopf.on.cleanup(registry=handlers)
    async def stop(**_: Any) -> None:
        await operator.stop()
        for probe in probes:
            await probe.cleanup()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def pipeline_event(event: kopf.RawEvent, **_: Any) -> None:
        operator.on_pipeline_event(event["type"], dict(event["object"]))

    return handlers


def settings() -> kopf.OperatorSettings:
    result = kopf.OperatorSettings()
    result.posting.enabled = False
    result.scanning.disabled = True
    result.persistence.diffbase_storage = NoDiffBase()
    result.watching.server_timeout = WATCH_SECONDS
    result.watching.inactivity_timeout = WATCH_SILENCE_SECONDS
    result.watching.connect_timeout = REQUEST_SECONDS
    result.watching.reconnect_backoff = RELIST_SECONDS
    result.networking.request_timeout = WATCH_SILENCE_SECONDS  # such as for the list of all pipelines
    result.networking.error_backoffs = EndlessBackoffs()
    return result


class NoDiffBase(kopf.DiffBaseStorage):
    """Stores nothing. By default kopf copies every pipeline, to compare it with the previous copy."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class EndlessBackoffs:
    """Delays after failed calls of kopf, without an end. After the last of them kopf would stop the operator."""

    def __iter__(self) -> Iterator[float]:
        return chain((0.2, 0.5, 1.0, 2.0, 5.0), repeat(10.0))
