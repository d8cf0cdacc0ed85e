"""The base of all schemas of requests: which keys and values count, and errors that name the field as the client did.

Clients send back what they received, and what their libraries set by default. So null counts as absent, as do the
neutral values of parameters that this server does not support. A key that is not known is rejected by name.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

FIELD_PROBLEM = "field_problem"
"""The type of errors whose context names the `field` at fault, below their location, and the `code`."""
NULL = {"type": "null"}


def field_problem(field: str, message: str, code: str = "invalid_value") -> PydanticCustomError:
    """A validation error of a key in the object that is validated, for which pydantic has no location."""
    field = field.encode(errors="backslashreplace").decode()  # pydantic takes no half surrogate pairs
    return PydanticCustomError(FIELD_PROBLEM, "{message}", {"message": message, "field": field, "code": code})


class RequestModel(BaseModel):
    """An object that clients send. Not itself in OpenAPI.

    UNSUPPORTED: parameters of OpenAI that this server does not support, with the values that ask for nothing
    STRUCTURED: fields that forms, which have only texts, send as JSON
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    UNSUPPORTED: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    STRUCTURED: ClassVar[frozenset[str]] = frozenset()

    _sent_names: dict[str, str] = PrivateAttr(default_factory=dict)

    def name_of(self, field: str) -> str:
        """The name that the client used for a field, which may have several."""
        return self._sent_names.get(field) or _names(type(self), field)[0]

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Drop what counts as absent. It stops at the first unknown key, so that many of them cost nothing."""
        if not isinstance(data, dict):
            return handler(data)
        fields = _fields_by_name(cls)
        present: dict[str, Any] = {}
        sent_names: dict[str, str] = {}
        for name, value in data.items():
            if value is None:
                continue
            if name in cls.UNSUPPORTED:
                if value not in cls.UNSUPPORTED[name]:
                    raise field_problem(name, "this server does not support it: leave it out", "unsupported_parameter")
                continue
            if (field := fields.get(name)) is None:
                raise field_problem(name, "unknown parameter", "unknown_parameter")
            if field in sent_names:
                raise field_problem(name, f"it is the same as {sent_names[field]}: leave one of them out")
            sent_names[field], present[name] = name, value
        model = handler(present)
        model._sent_names = sent_names
        return model

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        required = schema.get("required", ())
        for name, field in schema.get("properties", {}).items():
            if name not in required and NULL not in field.get("anyOf", ()) and field.get("type") != "null":
                kept = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
                field["anyOf"] = [dict(field), NULL]
                for key in [key for key in field if key != "anyOf"]:
                    del field[key]
                field.update(kept)
        for name, neutral in cls.UNSUPPORTED.items():
            description = "Not supported. Only values that ask for nothing."
            schema.setdefault("properties", {})[name] = {"enum": [*neutral, None], "description": description}
        schema["additionalProperties"] = NULL
        return reference


def _names(model: type[BaseModel], field: str) -> list[str]:
    """The names under which clients can send a field."""
    alias = model.model_fields[field].validation_alias
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [field]


@functools.cache
def _fields_by_name(model: type[BaseModel]) -> dict[str, str]:
    return {name: field for field in model.model_fields for name in _names(model, field)}
