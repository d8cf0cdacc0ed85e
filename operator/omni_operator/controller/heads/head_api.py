"""Reads the topology that a pipeline's head reports at GET /v1/omni/topology: loads of stages, states of replicas.

Inside the cluster the operator asks the pipeline's API Service; outside, the API server forwards the request. Neither
way verifies the certificate of an API with TLS: the request carries no secret, and an answer can only move a count
within its bounds. Requests block. A slow head can block one for longer than the timeout, which covers single reads.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.planning.autoscale import StageLoad
from omni_operator.planning.topology.records import CLUSTER_HEAD, LOOPBACK

TOPOLOGY_PATH = "/v1/omni/topology"
TIMEOUT_SECONDS = 2.0
"""For connecting, and for each read of the answer; not for the request as a whole."""


class HeadError(Exception):
    """The head did not answer, or its answer is malformed; the message says which."""


def stage_loads(cluster: Cluster, pipeline: OmniPipeline) -> dict[str, StageLoad]:
    """The load of each stage, by name. Raises HeadError."""
    with malformed_answers_as_head_errors():
        topology = fetch_topology(cluster, pipeline)
        return {
            stage["name"]: stage_load(topology, stage, local_replicas)
            for stage in topology["stages"]
            if (local_replicas := replicas_per_pod(pipeline, stage["name"]))
        }


def serving_in_head(cluster: Cluster, pipeline: OmniPipeline) -> int:
    """How many of the head's local replicas serve. Raises HeadError."""
    with malformed_answers_as_head_errors():
        topology = fetch_topology(cluster, pipeline)
        replicas = [replica for stage in topology["stages"] for replica in stage["replicas"]]
        # A head reaches only its local replicas over the loopback address.
        return sum(replica["state"] == "UP" and LOOPBACK in replica["address"] for replica in replicas)


def requests_by_pod(cluster: Cluster, pipeline: OmniPipeline, stage_name: str) -> dict[str, int]:
    """Running and waiting requests at each pod of a stage, by pod name. Raises HeadError."""
    requests: dict[str, int] = {}
    with malformed_answers_as_head_errors():
        for stage in fetch_topology(cluster, pipeline)["stages"]:
            for replica in stage["replicas"] if stage["name"] == stage_name else ():
                # The replica's own report is slightly old, and the head's count leaves out the other heads.
                at_replica = max(int(replica["in_flight"]), int(replica["queue_length"]) + int(replica["running"]))
                requests[replica["host"]] = requests.get(replica["host"], 0) + at_replica
    return requests


@contextmanager
def malformed_answers_as_head_errors() -> Iterator[None]:
    """Turns the errors of parsing an answer into HeadError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise HeadError(f"what the head tells at {TOPOLOGY_PATH} is not understood: {error!r}") from None


def stage_load(topology: Mapping[str, Any], stage: Mapping[str, Any], local_replicas: int) -> StageLoad:
    """The load of a stage whose pods have `local_replicas` replicas each."""
    serving = [replica for replica in stage["replicas"] if replica["state"] in ("UP", "DRAINING")]
    return StageLoad(
        requests=int(stage["requests"]),
        requests_in_pipeline=int(topology["requests"]),
        running=sum(int(replica["running"]) for replica in serving),
        capacity=local_replicas * max((int(replica["capacity"]) for replica in serving), default=1),
    )


def replicas_per_pod(pipeline: OmniPipeline, stage_name: str) -> int:
    """Replicas in each pod of a stage; 0 if the pipeline has no such stage."""
    return next((stage.local_replicas for stage in pipeline.spec.stages if stage.name == stage_name), 0)


def fetch_topology(cluster: Cluster, pipeline: OmniPipeline) -> Any:
    """The head's answer, as parsed JSON. Raises HeadError."""
    return fetch_from_service(pipeline) if cluster.is_inside else fetch_through_api_server(cluster, pipeline)


def fetch_from_service(pipeline: OmniPipeline) -> Any:
    import httpx  # late, to save memory: most operators poll no head

    url = f"{scheme(pipeline)}://{pipeline.name}.{pipeline.namespace}.svc:{CLUSTER_HEAD.api}{TOPOLOGY_PATH}"
    try:
        answer = httpx.get(url, timeout=TIMEOUT_SECONDS, trust_env=False, verify=False)
        answer.raise_for_status()
        return answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise HeadError(f"the head does not answer: {error}") from None


def fetch_through_api_server(cluster: Cluster, pipeline: OmniPipeline) -> Any:
    try:
        return cluster.get_from_service(
            pipeline.namespace, pipeline.name, "http", TOPOLOGY_PATH, TIMEOUT_SECONDS, scheme(pipeline)
        )
    except (ApiError, Unreachable, ValueError) as error:
        raise HeadError(f"the head does not answer: {error}") from None


def scheme(pipeline: OmniPipeline) -> str:
    return "https" if pipeline.speaks_tls else "http"
