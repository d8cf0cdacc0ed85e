"""GET /omni/replicas and /omni/requests: the replicas that the head sees, and the requests that run now."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from omni_worker.api.state.schemas import ReplicaList, ReplicaObject, RunningList, RunningObject, card_object
from omni_worker.orchestrator.member import Member
from omni_worker.orchestrator.orchestrator import Orchestrator


def state_routes(orchestrator: Orchestrator) -> APIRouter:
    """The routes that list replicas and running requests."""
    router = APIRouter(prefix="/omni", tags=["state"])

    @router.get("/replicas")
    async def replicas() -> ReplicaList:
        """Every replica that the head knows, by stage and id."""
        return ReplicaList(
            replicas=[
                ReplicaObject(
                    stage=pool.stage.name,
                    stage_id=pool.stage.id,
                    in_flight=member.client.in_flight,
                    pipeline=member.replica.card.pipeline,
                    mode=member.replica.card.mode,
                    card=card_object(member.replica.card),
                    **replica_fields(pool.stage.name, member),
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


def replica_fields(stage: str, member: Member) -> dict[str, Any]:
    """The fields of a ReplicaNode, except `in_flight`."""
    replica, load = member.replica, member.replica.load
    return {
        "id": f"{stage}-{member.name}",
        "state": replica.state,
        "host": replica.host,
        "address": replica.address,
        "queue_length": load.queue_length,
        "running": load.running,
        "capacity": load.capacity,
        "completed": load.completed,
        "step_ms": load.step_ms,
        "loras": list(replica.card.loras),
    }
