"""What the API takes and gives, as OpenAI names it; our own fields ride in the client's `extra_body`."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

from omni_worker.requests import SEED_LIMIT

MAX_SIDE = 4096


class Generation(BaseModel):
    """What every request may say of how to generate. OpenAI's own names are kept; the rest are extensions."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)

    model: Annotated[str | None, Field(description="The served model's name; may be left out.")] = None
    n: Annotated[int, Field(ge=1, le=10, description="How many answers.")] = 1
    user: Annotated[str | None, Field(max_length=256, description="Who asks: the tenant, where none is named.")] = None
    size: Annotated[str, Field(description="Width x height in pixels, such as 512x512, or auto.")] = "auto"
    steps: Annotated[
        int | None,
        Field(
            ge=1,
            le=1000,
            validation_alias=AliasChoices("num_inference_steps", "steps"),
            description="Denoising steps; the model's own number if left out.",
        ),
    ] = None
    guidance: Annotated[
        float | None,
        Field(
            ge=0,
            le=100,
            allow_inf_nan=False,
            validation_alias=AliasChoices("guidance_scale", "guidance", "true_cfg_scale"),
            description="How closely to follow the prompt.",
        ),
    ] = None
    seed: Annotated[
        int | None,
        Field(
            ge=0, lt=SEED_LIMIT, description="Same seed, same answer; answer i of n has seed + i. Random if left out."
        ),
    ] = None
    negative_prompt: Annotated[str | None, Field(max_length=32_000, description="What it shall not show.")] = None
    priority: Annotated[int, Field(ge=-100, le=100, description="A higher one goes before a lower one.")] = 0
    deadline: Annotated[
        float | None,
        Field(gt=0, le=86_400, description="Seconds within which it is wanted; the policy `edf` goes by it."),
    ] = None
    tenant: Annotated[
        str | None, Field(max_length=256, description="Whose share of the time it takes; the policy `drr` goes by it.")
    ] = None

    @field_validator("size")
    @classmethod
    def _is_a_size(cls, value: str) -> str:
        if value != "auto":
            parse_size(value)
        return value

    @property
    def width_and_height(self) -> tuple[int | None, int | None]:
        """The size in pixels; None twice where the model shall choose."""
        return (None, None) if self.size == "auto" else parse_size(self.size)

    @property
    def generation(self) -> dict[str, Any]:
        """These as fields of GenerationParams; the seed is left to the caller."""
        width, height = self.width_and_height
        return {
            "negative_prompt": self.negative_prompt,
            "width": width,
            "height": height,
            "steps": self.steps,
            "guidance": self.guidance,
            "priority": self.priority,
            "tenant": self.tenant or self.user or "",
            "deadline_seconds": self.deadline,
        }


class ImageGenerationRequest(Generation):
    """Body of POST /v1/images/generations."""

    prompt: Annotated[str, Field(min_length=1, max_length=32_000, description="What the picture shall show.")]
    response_format: Annotated[Literal["b64_json"], Field(description="Pictures come in the response.")] = "b64_json"
    output_format: Annotated[Literal["png"], Field(description="File format of the pictures.")] = "png"


def parse_size(text: str) -> tuple[int, int]:
    """Read WIDTHxHEIGHT. Raises ValueError."""
    width, separator, height = text.partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise ValueError(f"{text!r} is not a size: give WIDTHxHEIGHT in pixels, such as 512x512, or auto")
    sides = int(width), int(height)
    if not all(1 <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"{text!r} is out of bounds: each side may be 1 to {MAX_SIDE} pixels")
    return sides


class ImageData(BaseModel):
    """One picture: a PNG file in base64, and the seed that makes it again."""

    b64_json: str
    seed: int
    revised_prompt: Annotated[str | None, Field(description="What a stage before the painter made of the prompt.")] = (
        None
    )


class ImageGenerationResponse(BaseModel):
    """Answer of POST /v1/images/generations. `created` is in seconds since 1970."""

    created: int
    data: list[ImageData]
    size: str
    output_format: str = "png"


class ModelObject(BaseModel):
    """A model, as GET /v1/models lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "omnipipeline"


class ModelList(BaseModel):
    """Answer of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ErrorBody(BaseModel):
    """What went wrong: `param` names the field, `code` the kind for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None
    stage: Annotated[str | None, Field(description="The stage at which the request failed, if it got that far.")] = None


class ErrorResponse(BaseModel):
    """Every error."""

    error: ErrorBody


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
