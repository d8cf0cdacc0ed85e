"""Reads the topology that a pipeline's head reports at GET /v1/omni/topology: loads of stages, states of replicas.

Inside the cluster the operator asks the pipeline's API Service; outside, the API server forwards the request. Neither
way verifies the certificate of an API with TLS: the request carries no secret, and an answer can only move a count
within its bounds. The head is a tenant's, so its answer gets a deadline, a size limit and a schema, and everything that
can be wrong with it is a HeadError. This module is the only one that reads such answers. Requests block.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from omni_operator.controller.heads.bounded_http import BadAnswer, get_json
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.proxies import is_loopback
from omni_operator.planning.autoscale import StageLoad
from omni_operator.planning.observed import ObservedEndpoint, ObservedLora
from omni_operator.planning.topology.records import CLUSTER_HEAD

TOPOLOGY_PATH = "/v1/omni/topology"
TIMEOUT_SECONDS = 4.0
"""From connecting to the last byte of the answer."""
MAX_BYTES = 2 * 1024 * 1024
"""Some 5,000 replicas."""
SHOWN_CHARACTERS = 300

Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
Name = Annotated[str, msgspec.Meta(max_length=256)]


class Replica(msgspec.Struct, frozen=True, gc=False):
    """A replica as the head reports it; without what the operator does not need.

    A head of another version may leave fields out; each reader can do without those that have a default.
    """

    host: Name
    state: Name
    address: Name = ""
    in_flight: Count = 0
    queue_length: Count = 0
    running: Count = 0
    capacity: Count = 1


class StageLora(msgspec.Struct, frozen=True):
    """A LoRA adapter at a stage: on how many replicas it is loaded, and why it is not on another one."""

    name: Name
    loaded: Count = 0
    reason: Annotated[str, msgspec.Meta(max_length=2048)] | None = None


class StageEndpoint(msgspec.Struct, frozen=True):
    """The server that a stage is, and what is wrong with it."""

    problem: Annotated[str, msgspec.Meta(max_length=4096)] | None = None


class Stage(msgspec.Struct, frozen=True):
    """A stage as the head reports it. `requests` are running and waiting ones.

    refuses_replicas: whether replicas try to join that do not fit, for instance because they have another model
    endpoint: of a stage that is a server outside the pipeline, which is its only replica
    """

    name: Name
    requests: Count
    replicas: tuple[Replica, ...]
    refuses_replicas: bool = False
    loras: Annotated[tuple[StageLora, ...], msgspec.Meta(max_length=1024)] = ()
    endpoint: StageEndpoint | None = None


class HeadTopology(msgspec.Struct, frozen=True):
    """The head's answer. `requests` are those in all stages. Raises ValueError if two stages have the same name."""

    requests: Count
    stages: Annotated[tuple[Stage, ...], msgspec.Meta(max_length=256)]

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two of its stages have the same name, among {names}")


@dataclass(frozen=True)
class HeadState:
    """What pod statuses do not tell of a head.

    serving: its local replicas that serve
    refusing: the stages whose replicas it refuses
    loras: the LoRA adapters at each stage that has some, by its name
    endpoints: the servers that stages are, by the names of the stages
    """

    serving: int
    refusing: frozenset[str] = frozenset()
    loras: Mapping[str, tuple[ObservedLora, ...]] = field(default_factory=dict)
    endpoints: Mapping[str, ObservedEndpoint] = field(default_factory=dict)


class HeadError(Exception):
    """The head did not answer, or its answer is malformed; the message says which."""


def stage_loads(cluster: Cluster, pipeline: OmniPipeline) -> dict[str, StageLoad]:
    """The load of each stage, by name. Raises HeadError."""
    topology = read_topology(cluster, pipeline)
    local_replicas = {stage.name: stage.local_replicas for stage in pipeline.spec.stages}
    return {
        stage.name: stage_load(topology, stage, local_replicas[stage.name])
        for stage in topology.stages
        if stage.name in local_replicas
    }


def head_state(cluster: Cluster, pipeline: OmniPipeline) -> HeadState:
    """Ask a head for its state. Raises HeadError."""
    stages = read_topology(cluster, pipeline).stages
    replicas = [replica for stage in stages if stage.endpoint is None for replica in stage.replicas]
    return HeadState(
        # A head reaches only its local replicas over the loopback address.
        serving=sum(replica.state == "UP" and is_local(replica.address) for replica in replicas),
        refusing=frozenset(stage.name for stage in stages if stage.refuses_replicas),
        loras={
            stage.name: tuple(
                ObservedLora(shown(lora.name), lora.loaded, shown(lora.reason) if lora.reason else None)
                for lora in stage.loras
            )
            for stage in stages
            if stage.loras
        },
        endpoints={stage.name: observed_endpoint(stage) for stage in stages if stage.endpoint},
    )


def observed_endpoint(stage: Stage) -> ObservedEndpoint:
    """The server that a stage is. Before its first check, it is neither up nor has it a problem."""
    problem = stage.endpoint.problem if stage.endpoint else None
    is_up = any(replica.state == "UP" for replica in stage.replicas)
    return ObservedEndpoint(is_up, shown(problem) if problem else None)


def is_local(address: str) -> bool:
    """Whether an address such as tcp://[::1]:9100 is a loopback address."""
    try:
        return is_loopback(urlsplit(address).hostname or "")
    except ValueError:
        return False


def requests_by_pod(cluster: Cluster, pipeline: OmniPipeline, stage_name: str) -> dict[str, int]:
    """Running and waiting requests at each pod of a stage, by pod name. Raises HeadError."""
    requests: dict[str, int] = {}
    for stage in read_topology(cluster, pipeline).stages:
        for replica in stage.replicas if stage.name == stage_name else ():
            # The replica's own report is slightly old, and the head's count leaves out the other heads.
            at_replica = max(replica.in_flight, replica.queue_length + replica.running)
            requests[replica.host] = requests.get(replica.host, 0) + at_replica
    return requests


def stage_load(topology: HeadTopology, stage: Stage, local_replicas: int) -> StageLoad:
    """The load of a stage whose pods have `local_replicas` replicas each."""
    serving = [replica for replica in stage.replicas if replica.state in ("UP", "DRAINING")]
    return StageLoad(
        requests=stage.requests,
        requests_in_pipeline=topology.requests,
        running=sum(replica.running for replica in serving),
        capacity=local_replicas * max((replica.capacity for replica in serving), default=1),
        serving=sum(replica.state == "UP" for replica in serving),
    )


def read_topology(cluster: Cluster, pipeline: OmniPipeline) -> HeadTopology:
    """Ask a head, and check its answer. Raises HeadError."""
    try:
        return parse_topology(get_topology(cluster, pipeline))
    except (BadAnswer, ApiError, Unreachable) as error:
        raise HeadError(f"the head does not answer: {shown(error)}") from None


def get_topology(cluster: Cluster, pipeline: OmniPipeline) -> bytes:
    """A head's answer, unread. Raises BadAnswer, ApiError, Unreachable."""
    limits = (TOPOLOGY_PATH, TIMEOUT_SECONDS, MAX_BYTES)
    if cluster.is_inside:
        return get_json(api_url(pipeline), *limits, unverified_tls())
    return cluster.get_from_service(pipeline.namespace, pipeline.name, "http", scheme(pipeline), *limits)


def api_url(pipeline: OmniPipeline) -> str:
    """The API's address inside the cluster."""
    return f"{scheme(pipeline)}://{pipeline.name}.{pipeline.namespace}.svc:{CLUSTER_HEAD.api}"


def scheme(pipeline: OmniPipeline) -> str:
    return "https" if pipeline.speaks_tls else "http"


@cache
def unverified_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def shown(error: Exception | str) -> str:
    """A text for a log and a status: short, and without the control characters that a head may send."""
    return "".join(one if one.isprintable() else "?" for one in str(error)[:SHOWN_CHARACTERS])


def parse_topology(content: bytes) -> HeadTopology:
    """Parse an answer. Raises HeadError."""
    try:
        return msgspec.json.decode(content, type=HeadTopology)
    # RecursionError: deep nesting, also below keys that nothing reads. UnicodeDecodeError is a ValueError.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise HeadError(f"the answer of the head at {TOPOLOGY_PATH} is malformed: {shown(error)}") from None
