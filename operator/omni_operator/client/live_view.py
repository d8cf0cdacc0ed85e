"""A pipeline at one moment, as its head reports it: its stages, their replicas, and the running requests.

`omni status --output json` prints these records, so their fields are part of the command's output.
"""

import time

import httpx
from pydantic import Field

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import NotAPipeline, connection_errors, error_message, require_success
from omni_operator.client.plain_text import plain_text
from omni_operator.client.responses import RESPONSE_SECONDS, ApiRecord, fetch

DIFFUSION = "diffusion"
UP = "UP"
NOT_READY = 503


class ReplicaView(ApiRecord):
    """A replica and its load; `step_ms` is the mean duration of its last model calls in milliseconds. `loras` are the
    LoRA adapters that it has loaded.
    """

    id: str
    state: str
    host: str
    queue_length: int
    running: int
    in_flight: int
    capacity: int
    completed: int
    step_ms: float
    loras: tuple[str, ...] = ()


class LoraView(ApiRecord):
    """A LoRA adapter at a stage: on how many replicas it is loaded, and why it is not on another one."""

    name: str
    loaded: int
    reason: str | None = None


class EndpointView(ApiRecord):
    """A server outside the pipeline that is a stage: its URL, its model, and what is wrong with it."""

    url: str
    model: str
    problem: str | None = None


class StageView(ApiRecord):
    """A stage and its replicas.

    `pipeline` is the class of its model, None until a replica has registered. `tokens` and `images` count what the
    stage has generated since the head started, None if the head does not count them. `endpoint` is the server of a
    stage that has no replicas of its own; it stands in the place of its only one.
    """

    name: str
    engine: str
    task: str | None = None
    input: str | None = None
    model: str | None = None
    pipeline: str | None = None
    requests: int
    tokens: int | None = None
    images: int | None = None
    loras: tuple[LoraView, ...] = ()
    endpoint: EndpointView | None = None
    replicas: list[ReplicaView]

    @property
    def generates_text(self) -> bool:
        return self.engine != DIFFUSION and self.task != "encode"

    @property
    def up_count(self) -> int:
        """How many of its replicas accept requests."""
        return sum(replica.state == UP for replica in self.replicas)

    def replicas_with(self, lora: str) -> str:
        """The ids of its replicas that have loaded a LoRA adapter, in words."""
        return ", ".join(replica.id for replica in self.replicas if lora in replica.loras)


class RequestView(ApiRecord):
    """A running request; `total_steps` is 0 until known."""

    id: str
    stage: str
    replica: str
    step: int
    total_steps: int
    state: str


class TopologyResponse(ApiRecord):
    """GET /v1/omni/topology: the stages in the order in which requests pass them."""

    model: str
    stages: list[StageView]


class RequestsResponse(ApiRecord):
    """GET /omni/requests: the running requests in order of arrival."""

    requests: list[RequestView]


class PipelineView(ApiRecord):
    """The whole pipeline at one moment.

    `reason` says why it is not ready. `at` is when it was fetched, in seconds of the monotonic clock.
    """

    is_ready: bool
    reason: str | None
    model: str
    stages: list[StageView]
    requests: list[RequestView]
    at: float = Field(default_factory=time.monotonic)


def fetch_view(client: httpx.Client, endpoint: Endpoint) -> PipelineView:
    """Fetch the view from the head. Raises RequestFailed, or NotAPipeline if another server responds."""
    with connection_errors(endpoint):
        readiness = client.get("/readyz", timeout=RESPONSE_SECONDS)
    if readiness.status_code == 404:
        raise NotAPipeline(endpoint)
    if readiness.status_code not in (200, NOT_READY):
        require_success(endpoint, readiness)
    topology = fetch(client, endpoint, "/v1/omni/topology", TopologyResponse)
    requests = fetch(client, endpoint, "/omni/requests", RequestsResponse)
    return PipelineView(
        is_ready=readiness.status_code == 200,
        reason=None if readiness.status_code == 200 else _not_ready_reason(readiness),
        model=topology.model,
        stages=topology.stages,
        requests=requests.requests,
    )


def _not_ready_reason(readiness: httpx.Response) -> str:
    try:
        return plain_text(str(readiness.json()["reason"]))
    except (ValueError, KeyError, TypeError):
        return plain_text(error_message(readiness)[0])
