"""GET /v1/omni/topology: the stages of the pipeline, with their replicas and loads. The operator autoscales by it."""

from collections import Counter

from fastapi import APIRouter
from pydantic import BaseModel

from omni_worker.api.state.replicas import replica_fields
from omni_worker.api.state.schemas import CardObject, ReplicaNode, card_object
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.orchestrator.stage_pool import StagePool


class LoraNode(BaseModel):
    """A LoRA adapter at a stage: on how many of the replicas that are up it is loaded, and why it is not on another."""

    name: str
    loaded: int
    reason: str | None


class EndpointNode(BaseModel):
    """The server of a stage outside the pipeline, its model, and what is wrong with it."""

    url: str
    model: str
    problem: str | None


class StageNode(BaseModel):
    """A stage; `input` is what it takes from the one before. `pipeline` is the class of its model and `takes` what that
    can be asked for, once both are known. `tokens` and `images` count what it made since the head began.
    `endpoint` is the server of a stage of the engine `openai`, whose only replica it is.
    `refuses_replicas`: replicas try to join that do not fit, for instance because they have another model.
    """

    id: int
    name: str
    engine: str
    task: str | None
    input: str | None
    model: str | None
    pipeline: str | None
    takes: CardObject | None
    requests: int
    tokens: int
    images: int
    refuses_replicas: bool
    loras: list[LoraNode]
    endpoint: EndpointNode | None
    replicas: list[ReplicaNode]


class Topology(BaseModel):
    """The stages in the order in which requests go through them."""

    model: str
    requests: int
    stages: list[StageNode]


def topology_routes(orchestrator: Orchestrator, model: str) -> APIRouter:
    """The route of the topology."""
    router = APIRouter(prefix="/v1/omni", tags=["state"])

    @router.get("/topology")
    async def topology() -> Topology:
        """Every stage, its replicas, their states and their loads."""
        running = Counter(request.stage for request in orchestrator.running.values())
        stages = [
            _stage_node(pool, is_first=number == 0, requests=running[pool.stage.name])
            for number, pool in enumerate(orchestrator.pools)
        ]
        return Topology(model=model, requests=running.total(), stages=stages)

    return router


def _lora_nodes(pool: StagePool) -> list[LoraNode]:
    states = [state for member in pool.up for state in member.replica.loras.loras]
    return [
        LoraNode(
            name=name,
            loaded=sum(state.phase == "loaded" for state in states if state.source.name == name),
            reason=next((state.reason for state in states if state.source.name == name and state.reason), None),
        )
        for name in sorted({state.source.name for state in states})
    ]


def _stage_node(pool: StagePool, is_first: bool, requests: int) -> StageNode:
    stage, members = pool.stage, pool.members
    card = members[0].replica.card if members else None
    return StageNode(
        id=stage.id,
        name=stage.name,
        engine=stage.engine,
        task=stage.task if stage.engine == "autoregressive" else None,
        input=None if is_first else stage.input,
        model=stage.model,
        pipeline=card.pipeline if card else None,
        takes=card_object(card) if card else None,
        requests=requests,
        tokens=pool.tokens,
        images=pool.images,
        refuses_replicas=pool.refuses_replicas,
        loras=_lora_nodes(pool),
        endpoint=EndpointNode(url=stage.endpoint.url, model=stage.endpoint.model, problem=pool.problem)
        if stage.endpoint
        else None,
        replicas=[ReplicaNode(in_flight=member.in_flight, **replica_fields(stage.name, member)) for member in members],
    )
