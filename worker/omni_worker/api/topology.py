"""GET /v1/omni/topology: the pipeline as it stands, stage by stage, with its replicas and how loaded they are."""

from fastapi import APIRouter
from pydantic import BaseModel

from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.orchestrator.stage_pool import Member, StagePool


class ReplicaNode(BaseModel):
    """A replica: `queue_length` and `running` as it reported, `in_flight` by this head's own count."""

    id: str
    state: str
    host: str
    address: str
    queue_length: int
    running: int
    in_flight: int
    capacity: int
    completed: int
    step_ms: float


class StageNode(BaseModel):
    """A stage; `input` is what it takes from the one before, and `pipeline` the class of its model, once known."""

    id: int
    name: str
    engine: str
    task: str | None
    input: str | None
    model: str | None
    pipeline: str | None
    requests: int
    replicas: list[ReplicaNode]


class Topology(BaseModel):
    """The stages in the order in which requests go through them."""

    model: str
    requests: int
    stages: list[StageNode]


def topology_routes(orchestrator: Orchestrator, model: str) -> APIRouter:
    """The route that shows the pipeline."""
    router = APIRouter(prefix="/v1/omni", tags=["state"])

    @router.get("/topology")
    async def topology() -> Topology:
        """Every stage, its replicas, their states and their loads."""
        at = [running.stage for running in orchestrator.running.values()]
        stages = [
            _stage(pool, is_first=not number, requests=at.count(pool.stage.name))
            for number, pool in enumerate(orchestrator.pools)
        ]
        return Topology(model=model, requests=len(at), stages=stages)

    return router


def _stage(pool: StagePool, is_first: bool, requests: int) -> StageNode:
    stage, members = pool.stage, pool.members
    return StageNode(
        id=stage.id,
        name=stage.name,
        engine=stage.engine,
        task=stage.task if stage.engine == "autoregressive" else None,
        input=None if is_first else stage.input,
        model=stage.model,
        pipeline=members[0].replica.card.pipeline if members else None,
        requests=requests,
        replicas=[_replica(stage.name, member) for member in members],
    )


def _replica(stage: str, member: Member) -> ReplicaNode:
    load = member.replica.load
    return ReplicaNode(
        id=f"{stage}-{member.name}",
        state=member.replica.state,
        host=member.replica.host,
        address=member.replica.address,
        queue_length=load.queue_length,
        running=load.running,
        in_flight=member.in_flight,
        capacity=load.capacity,
        completed=load.completed,
        step_ms=load.step_ms,
    )
