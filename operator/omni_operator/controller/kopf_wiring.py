"""Connects the operator to kopf: settings, handlers, and the run loop. kopf watches pipelines and serves the probe.

Handlers only call the operator. No timer, daemon or finalizer of kopf is used, so a pipeline can be deleted while no
operator runs.
"""

import logging
import time
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import kopf

from omni_operator.controller.errors import Unhealthy
from omni_operator.controller.operator import Operator
from omni_operator.crd.spec.pipeline import GROUP, PLURAL, VERSION
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import PIPELINES

logger = logging.getLogger(__name__)

DEFINITION_POLL_SECONDS = 2.0


def wait_for_definition(cluster: Cluster, namespaces: tuple[str, ...]) -> None:
    """Wait until the API server answers and has the kind OmniPipeline.

    kopf would start without it, and then never see a pipeline. Raises ApiError if the server rejects the request for
    another reason.
    """
    while True:
        try:
            next(cluster.pages(PIPELINES, namespaces[0] if namespaces else None))
            logger.info("looks after %s", ", ".join(cluster.child_resources))
            return
        except (ApiError, Unreachable) as error:
            is_missing = isinstance(error, ApiError) and error.status == 404
            if isinstance(error, ApiError) and not is_missing and not error.is_transient:
                raise
            logger.warning("%s; waiting", "the CRD is not installed" if is_missing else error)
            time.sleep(DEFINITION_POLL_SECONDS)


def run_operator(operator: Operator, probe_port: int) -> None:
    """Run until SIGTERM. `probe_port`: where /healthz listens; 0 for no probe."""
    kopf.run(
        registry=registry(operator),
        settings=settings(),
        standalone=True,
        clusterwide=not operator.namespaces,
        namespaces=operator.namespaces,
        liveness_endpoint=f"http://0.0.0.0:{probe_port}/healthz" if probe_port else None,
    )


def registry(operator: Operator) -> kopf.OperatorRegistry:
    """kopf's handlers. Each only calls the operator."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def login(**kwargs: Any) -> Any:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.startup(registry=handlers)
    async def start(**_: Any) -> None:
        operator.start()

    @kopf.on.cleanup(registry=handlers)
    async def stop(**_: Any) -> None:
        await operator.stop()

    @kopf.on.probe(registry=handlers, id="operator")
    async def probe(**_: Any) -> str:
        try:
            operator.require_healthy()
        except Unhealthy as error:
            raise kopf.PermanentError(str(error)) from None  # makes the probe fail
        return "ok"

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def pipeline_event(event: kopf.RawEvent, **_: Any) -> None:
        operator.on_pipeline_event(event["type"], dict(event["object"]))

    return handlers


def settings() -> kopf.OperatorSettings:
    result = kopf.OperatorSettings()
    result.posting.enabled = False
    result.scanning.disabled = True
    result.persistence.diffbase_storage = NoDiffBase()
    result.watching.server_timeout = 300
    result.watching.connect_timeout = 30
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
