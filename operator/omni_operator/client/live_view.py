"""A pipeline as its head tells of it at one moment: its stages, their replicas, and the requests under way."""

import time
from typing import TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import NotAPipeline, connection, message, require_success

AUTOREGRESSIVE, DIFFUSION = "autoregressive", "diffusion"
UP = "UP"
ANSWER_SECONDS = 10.0
NOT_READY = 503


class Reported(BaseModel):
    """What an API gave; fields that newer heads add are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Replica(Reported):
    """A replica, and its own account of its work; `step_ms` is the mean of its last model calls."""

    id: str
    state: str
    host: str
    queue_length: int
    running: int
    in_flight: int
    capacity: int
    completed: int
    step_ms: float


class Stage(Reported):
    """A stage; `pipeline` is the class of its model, once a replica told.

    `tokens` and `images` count what it made since the head began; None where the head does not count them.
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
    replicas: list[Replica]

    @property
    def writes(self) -> bool:
        """Whether its steps are tokens of text."""
        return self.engine == AUTOREGRESSIVE and self.task != "encode"

    @property
    def up(self) -> int:
        """How many of its replicas take requests."""
        return sum(replica.state == UP for replica in self.replicas)


class Running(Reported):
    """A request under way; `total_steps` is 0 until known."""

    id: str
    stage: str
    replica: str
    step: int
    total_steps: int
    state: str


class Topology(Reported):
    """The stages, in the order in which requests go through them."""

    model: str
    stages: list[Stage]


class Requests(Reported):
    """The requests under way, in order of arrival."""

    requests: list[Running]


class View(Reported):
    """All of it. `reason` says why it is not ready; `at` is when it was looked at, in seconds of a monotonic clock."""

    is_ready: bool
    reason: str | None
    model: str
    stages: list[Stage]
    requests: list[Running]
    at: float = Field(default_factory=time.monotonic)


Kind = TypeVar("Kind", bound=Reported)


def look(client: httpx.Client, where: Endpoint) -> View:
    """Ask the head. Raises GenerationFailed where nothing answers, or something else does."""
    with connection(where):
        probe = client.get("/readyz", timeout=ANSWER_SECONDS)
    if probe.status_code == 404:
        raise NotAPipeline(where)
    if probe.status_code not in (200, NOT_READY):
        require_success(where, probe)
    topology = fetch(client, where, "/v1/omni/topology", Topology)
    requests = fetch(client, where, "/omni/requests", Requests)
    return View(
        is_ready=probe.status_code == 200,
        reason=None if probe.status_code == 200 else why_not(probe),
        model=topology.model,
        stages=topology.stages,
        requests=requests.requests,
    )


def fetch(client: httpx.Client, where: Endpoint, path: str, kind: type[Kind]) -> Kind:
    """GET a path of the API, as a record. Raises GenerationFailed."""
    with connection(where):
        response = client.get(path, timeout=ANSWER_SECONDS)
    if response.status_code == 404:
        raise NotAPipeline(where)
    require_success(where, response)
    try:
        return kind.model_validate_json(response.content)
    except ValidationError:
        raise NotAPipeline(where) from None


def why_not(probe: httpx.Response) -> str:
    """What a probe gives as its reason."""
    try:
        return str(probe.json()["reason"])
    except (ValueError, KeyError, TypeError):
        return message(probe)[0]
