"""The schemas that several routes share. The names are OpenAI's; clients send our extensions in `extra_body`.

Docstrings and descriptions of schemas are part of the public OpenAPI page.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from omni_settings.cache import Cache
from omni_worker.api.request_model import RequestModel
from omni_worker.requests import SEED_LIMIT, CacheSettings

MAX_SIDE = 16_384
"""Of an image, in pixels."""
ALIASED = {"num_inference_steps": "steps", "guidance_scale": "guidance"}
"""Fields with several names, by the name in our own messages."""
MAX_ARGUMENTS, MAX_ARGUMENT_NAME, MAX_ARGUMENT_ITEMS = 64, 64, 1000
"""Of `extra_args`: how many, the characters of a name, the values of a list."""
SIZE_PATTERN = r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"


def refusing(reasons: Mapping[Any, str | None], otherwise: str | None = None) -> BeforeValidator:
    """A validator that refuses values of OpenAI's API that this server does not support.

    reasons: the error message for each such value; None accepts it
    otherwise: the error message for every other value; None accepts them
    """

    def check(value: Any) -> Any:
        reason = reasons.get(value, otherwise) if isinstance(value, str | int | float) else otherwise
        if reason is not None and value is not None:
            raise ValueError(reason)
        return value

    return BeforeValidator(check)


class LoraBody(RequestModel):
    """A LoRA adapter to apply."""

    name: Annotated[str, Field(min_length=1, max_length=256, description="One of those that GET /v1/models lists.")]
    scale: Annotated[
        float | None,
        Field(ge=-100, le=100, allow_inf_nan=False, description="How strongly; the adapter's default if left out."),
    ] = None


class CacheBody(RequestModel, Cache):
    """Which model calls may be left out, because their results follow from the request's earlier ones."""

    model_config = ConfigDict(alias_generator=str)  # the names as they are

    @property
    def settings(self) -> CacheSettings:
        """The same for the stages."""
        return CacheSettings(**self.given)


ArgumentName = Annotated[str, Field(max_length=MAX_ARGUMENT_NAME)]
Scalar = bool | Annotated[int, Field(ge=-(2**63), lt=2**63)] | Annotated[float, Field(allow_inf_nan=False)] | str
ExtraArgs = dict[ArgumentName, Scalar | Annotated[list[Scalar], Field(max_length=MAX_ARGUMENT_ITEMS)]]


class GenerationBody(RequestModel):
    """The fields that every request for a generation has: OpenAI's, and our extensions. Not itself in OpenAPI."""

    STRUCTURED = frozenset({"loras", "cache", "extra_args"})

    model: Annotated[str | None, Field(description="The served model's name; may be left out.")] = None
    user: Annotated[str | None, Field(max_length=256, description="Who asks: the tenant, where none is named.")] = None
    safety_identifier: Annotated[
        str | None, Field(max_length=256, description="The same, by its newer name, which goes first.")
    ] = None
    size: Annotated[
        str | None,
        Field(
            description=f"Width x height in pixels, such as 512x512, each up to {MAX_SIDE}, of `--max-pixels` in all; "
            "or auto: the model's own.",
            json_schema_extra={"anyOf": [{"type": "string", "pattern": SIZE_PATTERN}, {"type": "null"}]},
        ),
    ] = "auto"
    steps: Annotated[
        int | None,
        Field(
            ge=1,
            validation_alias=AliasChoices("num_inference_steps", "steps"),
            description="Denoising steps, `--max-steps` at most; the model's own number if left out. Also as `steps`.",
        ),
    ] = None
    guidance: Annotated[
        float | None,
        Field(
            ge=0,
            le=100,
            allow_inf_nan=False,
            validation_alias=AliasChoices("guidance_scale", "guidance", "true_cfg_scale"),
            description="How closely to follow the prompt. Also as `guidance` or `true_cfg_scale`.",
        ),
    ] = None
    seed: Annotated[
        int | None,
        Field(
            ge=0, lt=SEED_LIMIT, description="Same seed, same answer; answer i of n has seed + i. Random if left out."
        ),
    ] = None
    negative_prompt: Annotated[
        str | None, Field(description="Things to avoid, in `--max-prompt-length` characters at most.")
    ] = None
    priority: Annotated[int, Field(ge=-100, le=100, description="Requests with a higher value run first.")] = 0
    deadline: Annotated[
        float | None,
        Field(gt=0, le=86_400, description="Seconds within which it is wanted; the policy `edf` goes by it."),
    ] = None
    exact: Annotated[
        bool,
        Field(
            description="Never share a model call with other requests, so that the result is the same, bit for bit, "
            "whatever else runs. It takes longer, and so do the others."
        ),
    ] = False
    tenant: Annotated[
        str | None, Field(max_length=256, description="Whose share of the time it takes; the policy `drr` goes by it.")
    ] = None

    loras: Annotated[
        Annotated[list[LoraBody], Field(max_length=16)] | None,
        Field(
            description="LoRA adapters to apply, which add up. To apply one, its name can be given as `model` instead.",
        ),
    ] = None

    cache: Annotated[
        CacheBody | None,
        Field(
            description="Be faster, approximately: leave out model calls whose results are predictable. The server's "
            "own setting (`--cache`) if left out."
        ),
    ] = None

    extra_args: Annotated[
        Annotated[ExtraArgs, Field(max_length=MAX_ARGUMENTS)] | None,
        Field(
            description="Arguments of the pipeline that have no field of their own, by name; GET /omni/replicas lists "
            "them. An image is a `data:` URL, or in a form a file with the name `extra_args[NAME]`.",
        ),
    ] = None

    @field_validator("loras")
    @classmethod
    def _check_names(cls, value: list[LoraBody] | None) -> list[LoraBody] | None:
        names = [lora.name for lora in value or ()]
        if len(set(names)) < len(names):
            raise ValueError(f"an adapter is given twice, among {', '.join(names)}")
        return value

    @field_validator("size")
    @classmethod
    def _check_size(cls, value: str | None) -> str | None:
        if value not in (None, "auto"):
            parse_size(value)
        return value

    @property
    def width_and_height(self) -> tuple[int | None, int | None]:
        """The size in pixels; both None for the model's default size."""
        return (None, None) if self.size in (None, "auto") else parse_size(self.size)

    @property
    def param_names(self) -> dict[str, str]:
        """What the client calls the parameters that stages and cards name in their errors."""
        return {"messages": "prompt"} | {name: self.name_of(field) for name, field in ALIASED.items()}

    @property
    def generation(self) -> dict[str, Any]:
        """These fields as fields of GenerationParams, without the seed and the adapters."""
        width, height = self.width_and_height
        return {
            "negative_prompt": self.negative_prompt,
            "width": width,
            "height": height,
            "steps": self.steps,
            "guidance": self.guidance,
            "priority": self.priority,
            "tenant": self.tenant or self.safety_identifier or self.user or "",
            "deadline_seconds": self.deadline,
            "exact": self.exact,
            "cache": None if self.cache is None else self.cache.settings,
            "extra_args": self.extra_args or {},
        }


def parse_size(text: str) -> tuple[int, int]:
    """Read WIDTHxHEIGHT. Raises ValueError."""
    if not re.fullmatch(SIZE_PATTERN, text) or text == "auto":
        raise ValueError(f"{text!r} is not a size: give WIDTHxHEIGHT in pixels, such as 512x512, or auto")
    width, height = (int(side) for side in text.split("x"))
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{text!r} is out of bounds: each side may be 1 to {MAX_SIDE} pixels")
    return width, height


class ModelObject(BaseModel):
    """A model, or a LoRA adapter, as GET /v1/models lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "omnipipeline"
    parent: Annotated[str | None, Field(description="Of an adapter: the model that it adapts.")] = None


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
