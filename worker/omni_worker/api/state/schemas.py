"""What GET /omni/replicas and /omni/requests give."""

from pydantic import BaseModel


class DefaultsObject(BaseModel):
    """What a model is served with where a request says nothing."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    strength: float | None = None


class CardObject(BaseModel):
    """What a replica's model can do: what of a request it takes, and what it does where that is left out."""

    context_length: int | None = None
    defaults: DefaultsObject = DefaultsObject()
    negative_prompt: bool = False
    guidance: bool = False
    sized: bool = False
    size_multiple: int = 1
    image: str = "none"
    needs_image: bool = False
    mask: bool = False
    strength: bool = False
    steps: int | None = None
    video: bool = False
    frames: int | None = None


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


class ReplicaObject(ReplicaNode):
    """One replica, as GET /omni/replicas lists it."""

    stage: str
    stage_id: int
    pipeline: str
    mode: str
    card: CardObject


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
