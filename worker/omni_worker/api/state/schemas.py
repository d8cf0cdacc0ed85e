"""The schemas of GET /omni/replicas and /omni/requests. Those of a model card take their fields from model_card."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, create_model

from omni_worker.model_card import CallArgument, ModelCard, ServingDefaults

Schema = TypeVar("Schema", bound=BaseModel)


def with_fields_of(
    record: type[msgspec.Struct],
    nested: dict[Any, type[BaseModel]] | None = None,
    without: Collection[str] = (),
) -> Callable[[type[Schema]], type[Schema]]:
    """Decorates an empty schema: gives it the fields of `record`, with their types and defaults, in their order.

    nested: the schemas of records that are fields of `record`, or items of such a field, by the type of the field
    without: fields that the schema does not have
    """

    def field(source: msgspec.structs.FieldInfo) -> tuple[Any, Any]:
        if (schema := (nested or {}).get(source.type)) is not None:
            if source.default == ():
                return list[schema], []  # type: ignore[valid-type]
            return schema, schema.model_validate(msgspec.to_builtins(source.default))
        return source.type, ... if source.required else source.default

    def decorate(schema: type[Schema]) -> type[Schema]:
        fields: dict[str, Any] = {
            source.name: field(source) for source in msgspec.structs.fields(record) if source.name not in without
        }
        return create_model(
            schema.__name__, __base__=schema, __module__=schema.__module__, __doc__=schema.__doc__, **fields
        )

    return decorate


@with_fields_of(ServingDefaults)
class DefaultsObject(BaseModel):
    """What a model is served with where a request says nothing."""


@with_fields_of(CallArgument)
class ArgumentObject(BaseModel):
    """An argument that requests can give in `extra_args`, and the kinds of values that it takes."""


@with_fields_of(
    ModelCard,
    nested={ServingDefaults: DefaultsObject, tuple[CallArgument, ...]: ArgumentObject},
    without=("pipeline", "mode", "fps", "frame_multiple"),
)
class CardObject(BaseModel):
    """What a replica's model can do: what of a request it takes, and what it does where that is left out."""


def card_object(card: ModelCard) -> CardObject:
    """A card as the API shows it."""
    return CardObject.model_validate(msgspec.to_builtins(card))


class ReplicaNode(BaseModel):
    """A replica: `queue_length` and `running` as it reported, `in_flight` by this head's own count. `loras` names the
    LoRA adapters that it has loaded.
    """

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
    loras: list[str]


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
    """One request that runs now, as GET /omni/requests lists it. `total_steps` is 0 until known; `client_id` is the
    `X-Request-Id` that the client sent.
    """

    id: str
    stage: str
    replica: str
    step: int
    total_steps: int
    state: str
    client_id: str | None = None


class RunningList(BaseModel):
    """Answer of GET /omni/requests."""

    requests: list[RunningObject]
