"""What GET /omni/replicas and /omni/requests give."""

from pydantic import BaseModel


class ReplicaObject(BaseModel):
    """One replica, as GET /omni/replicas lists it."""

    id: str
    stage: str
    stage_id: int
    state: str
    address: str
    host: str
    queue_length: int
    running: int
    in_flight: int
    capacity: int
    completed: int
    step_ms: float
    pipeline: str
    mode: str


class ReplicaList(BaseModel):
    """Answer of GET /omni/replicas."""

    replicas: list[ReplicaObject]


class RunningObject(BaseModel):
    """One request that runs now, as GET /omni/requests lists it; `total_steps` is 0 until known."""

    id: str
    stage: str
    replica: str
    step: int
    total_steps: int
    state: str


class RunningList(BaseModel):
    """Answer of GET /omni/requests."""

    requests: list[RunningObject]
