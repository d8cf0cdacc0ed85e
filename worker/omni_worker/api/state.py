"""GET /omni/replicas and /omni/requests: what the pipeline is doing now."""

from dataclasses import asdict

import msgspec
from fastapi import APIRouter

from omni_worker.api.state_schemas import CardObject, ReplicaList, ReplicaObject, RunningList, RunningObject
from omni_worker.orchestrator.orchestrator import Orchestrator


def state_routes(orchestrator: Orchestrator) -> APIRouter:
    """The routes that show replicas and running requests."""
    router = APIRouter(prefix="/omni", tags=["state"])

    @router.get("/replicas")
    async def replicas() -> ReplicaList:
        """Every replica that the head knows, by stage and id."""
        return ReplicaList(
            replicas=[
                ReplicaObject(
                    id=f"{pool.stage.name}-{member.name}",
                    stage=pool.stage.name,
                    stage_id=pool.stage.id,
                    state=member.replica.state,
                    address=member.replica.address,
                    host=member.replica.host,
                    queue_length=member.replica.load.queue_length,
                    running=member.replica.load.running,
                    in_flight=member.client.in_flight,
                    capacity=member.replica.load.capacity,
                    completed=member.replica.load.completed,
                    step_ms=member.replica.load.step_ms,
                    pipeline=member.replica.card.pipeline,
                    mode=member.replica.card.mode,
                    card=CardObject.model_validate(msgspec.to_builtins(member.replica.card)),
                )
                for pool in orchestrator.pools
                for member in pool.members
            ]
        )

    @router.get("/requests")
    async def requests() -> RunningList:
        """Every request that runs or waits here, in order of arrival."""
        return RunningList(requests=[RunningObject(**asdict(running)) for running in orchestrator.running.values()])

    return router
