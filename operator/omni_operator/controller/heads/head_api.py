"""Reads from a pipeline's head how loaded its stages are, and how many of its own replicas serve.

GET /v1/omni/topology, blocking, and bounded in time.

Inside the cluster it asks the pipeline's API Service; outside, the API server passes the question on. Neither checks
the certificate of an API that has one: it is told nothing, and what it tells moves a count within its bounds.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.planning.autoscale import StageLoad
from omni_operator.planning.topology.records import CLUSTER_HEAD, LOOPBACK

PATH = "/v1/omni/topology"
SECONDS = 2.0


class UnknownLoad(Exception):
    """The head did not tell; the message says how."""


def read(cluster: Cluster, pipeline: OmniPipeline) -> dict[str, StageLoad]:
    """The load of each stage, by name. Raises UnknownLoad."""
    with understood():
        content = told(cluster, pipeline)
        return {
            stage["name"]: load_of(content, stage, local_replicas)
            for stage in content["stages"]
            if (local_replicas := pods_replicas(pipeline, stage["name"]))
        }


def serving_in_head(cluster: Cluster, pipeline: OmniPipeline) -> int:
    """How many replicas inside the head serve. Raises UnknownLoad."""
    with understood():
        replicas = [replica for stage in told(cluster, pipeline)["stages"] for replica in stage["replicas"]]
        # A head reaches its own over the loopback, and no others.
        return sum(replica["state"] == "UP" and LOOPBACK in replica["address"] for replica in replicas)


def read_pods(cluster: Cluster, pipeline: OmniPipeline, name: str) -> dict[str, int]:
    """The requests at each pod of a stage, running and waiting, by the name of the pod. Raises UnknownLoad."""
    found: dict[str, int] = {}
    with understood():
        for stage in told(cluster, pipeline)["stages"]:
            for replica in stage["replicas"] if stage["name"] == name else ():
                # What the replica reported is a little old, and what this head counts leaves other heads out.
                requests = max(int(replica["in_flight"]), int(replica["queue_length"]) + int(replica["running"]))
                found[replica["host"]] = found.get(replica["host"], 0) + requests
    return found


@contextmanager
def understood() -> Iterator[None]:
    """Tells an answer that is none of a head's as UnknownLoad."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnknownLoad(f"what the head tells at {PATH} is not understood: {error!r}") from None


def told(cluster: Cluster, pipeline: OmniPipeline) -> Any:
    return asked(pipeline) if cluster.is_inside else passed_on(cluster, pipeline)


def load_of(content: Mapping[str, Any], stage: Mapping[str, Any], local_replicas: int) -> StageLoad:
    serving = [replica for replica in stage["replicas"] if replica["state"] in ("UP", "DRAINING")]
    return StageLoad(
        requests=int(stage["requests"]),
        requests_in_pipeline=int(content["requests"]),
        running=sum(int(replica["running"]) for replica in serving),
        capacity=local_replicas * max((int(replica["capacity"]) for replica in serving), default=1),
    )


def pods_replicas(pipeline: OmniPipeline, name: str) -> int:
    """Replicas in each pod of a stage; 0 where there is no such stage."""
    return next((stage.local_replicas for stage in pipeline.spec.stages if stage.name == name), 0)


def scheme(pipeline: OmniPipeline) -> str:
    return "https" if pipeline.speaks_tls else "http"


def asked(pipeline: OmniPipeline) -> Any:
    import httpx  # late: most operators scale nothing

    url = f"{scheme(pipeline)}://{pipeline.name}.{pipeline.namespace}.svc:{CLUSTER_HEAD.api}{PATH}"
    try:
        answer = httpx.get(url, timeout=SECONDS, trust_env=False, verify=False)
        answer.raise_for_status()
        return answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise UnknownLoad(f"the head does not answer: {error}") from None


def passed_on(cluster: Cluster, pipeline: OmniPipeline) -> Any:
    try:
        return cluster.get_from_service(pipeline.namespace, pipeline.name, "http", PATH, SECONDS, scheme(pipeline))
    except (ApiError, Unreachable, ValueError) as error:
        raise UnknownLoad(f"the head does not answer: {error}") from None
