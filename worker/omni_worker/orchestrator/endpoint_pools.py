"""The pool of a stage that is a server outside the pipeline. Its one member has an EndpointClient as connection."""

from omni_worker.config.endpoint import Endpoint
from omni_worker.config.records import Stage
from omni_worker.coordinator.messages import Replica
from omni_worker.endpoint.client import EndpointClient
from omni_worker.endpoint.health import EndpointHealth
from omni_worker.endpoint.http import EndpointHttp
from omni_worker.orchestrator.balancers import Balancer
from omni_worker.orchestrator.stage_pool import StagePool


def endpoint_pool(stage: Stage, endpoint: Endpoint, balancer: Balancer) -> tuple[StagePool, EndpointHealth]:
    """The pool, and the health checks that decide whether its member is up; `run` them.

    Raises UsageError if the environment names a proxy that cannot be used.
    """
    http = EndpointHttp(endpoint)
    client = EndpointClient(stage.name, endpoint, http)
    pool = StagePool(stage, balancer, lambda key, uid: None, connect=lambda address, on_connection, keys: client)

    def on_change(replica: Replica, problem: str | None) -> None:
        pool.problem = problem
        pool.update(replica)

    return pool, EndpointHealth(stage.id, endpoint, client, http, on_change)
