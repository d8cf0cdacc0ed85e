"""Turns pydantic's validation errors into `Problem`s: field, value, what was expected, what to do. Pure.

There is no text about single fields here. What was expected comes from the type, so new fields explain themselves.
"""

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from omni_operator.crd.problems import Problem

MOST_CHARACTERS = 80
"""Longest value that a message shows in full."""

Location = tuple[int | str, ...]
"""Keys and indexes from the root of the manifest, like `("spec", "stages", 0, "name")`."""


def explain(error: ValidationError, root: type[BaseModel]) -> list[Problem]:
    """Every problem of a failed validation of `root`, in the order of the fields."""
    return [
        Problem(dotted(detail["loc"]), message(FieldError(detail, root)))
        for detail in error.errors()
        if not follows_from_others(detail)
    ]


def follows_from_others(detail: ErrorDetails) -> bool:
    """Whether an error only repeats others: pydantic also calls a list too short if its items are invalid."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def dotted(location: Location) -> str:
    """`("spec", "stages", 0, "name")` as `spec.stages[0].name`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".") or "the object"


# ---- messages


@dataclass(frozen=True)
class FieldError:
    """One of pydantic's errors, and the type that was validated."""

    detail: ErrorDetails
    root: type[BaseModel]

    @property
    def location(self) -> Location:
        return self.detail["loc"]

    @property
    def value(self) -> Any:
        return self.detail["input"]

    @property
    def limits(self) -> Mapping[str, Any]:
        return self.detail.get("ctx", {})

    @property
    def text(self) -> str:
        """Pydantic's own message."""
        return self.detail["msg"]

    @property
    def value_text(self) -> str:
        """The value as JSON, shortened."""
        text = json.dumps(self.value, default=str, ensure_ascii=False)
        return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}…"

    @property
    def expected(self) -> str:
        """What the field is for."""
        return purpose(self.location, self.root)


def message(error: FieldError) -> str:
    """The message of one error, without its path."""
    write = MESSAGES.get(error.detail["type"])
    return write(error) if write else f"{error.value_text}: {error.text}"


def unknown_key(error: FieldError) -> str:
    key, keys = str(error.location[-1]), keys_at(error.location[:-1], error.root)
    similar = difflib.get_close_matches(key, keys, n=1, cutoff=0.7)
    if similar:
        return f"is not a known key; did you mean {similar[0]!r}?"
    return f"is not a known key; expected {one_of(keys)}"


def missing(error: FieldError) -> str:
    return f"is missing; expected {error.expected}"


def below_minimum(error: FieldError) -> str:
    least = error.limits["ge"]
    judgement = "is negative" if error.value < 0 else f"is below {least}"
    return f"{error.value} {judgement}; expected a whole number of {least} or more"


def above_maximum(error: FieldError) -> str:
    return f"{error.value} is above {error.limits['le']}; expected {error.limits['le']} at most"


def unknown_choice(error: FieldError) -> str:
    choices = [str(choice) for choice in literal_choices(error.location, error.root)]
    similar = difflib.get_close_matches(str(error.value), choices, n=1, cutoff=0.7)
    hint = f"; did you mean {similar[0]!r}?" if similar and len(choices) > 1 else ""
    return f"{error.value_text} is not known; expected {one_of(choices)}{hint}"


def no_integer(error: FieldError) -> str:
    return f"{error.value_text} is not a whole number; expected one, like 2, without quotes"


def no_text(error: FieldError) -> str:
    return f"{error.value_text} is not text; put it in quotes"


def wrong_form(error: FieldError) -> str:
    return f"{error.value_text} has the wrong form; expected {error.expected}"


def empty(error: FieldError) -> str:
    return f"is empty; expected {error.expected}"


def wrong_length(error: FieldError) -> str:
    return f"{error.value_text}: {error.text[0].lower()}{error.text[1:]}"


def no_mapping(error: FieldError) -> str:
    keys = keys_at(error.location, error.root)
    hint = f" ({', '.join(keys)})" if keys else ""
    return f"{error.value_text} is not a mapping; expected keys and values{hint}"


def no_list(error: FieldError) -> str:
    return f"{error.value_text} is not a list; expected items that start with a dash"


def from_validator(error: FieldError) -> str:
    """A message of the types' own validators."""
    return f"{error.value_text}: {error.limits['error']}"


# By pydantic's type of error. Others keep pydantic's message.
MESSAGES: Mapping[str, Callable[[FieldError], str]] = {
    "extra_forbidden": unknown_key,
    "missing": missing,
    "greater_than_equal": below_minimum,
    "less_than_equal": above_maximum,
    "literal_error": unknown_choice,
    "int_type": no_integer,
    "int_parsing": no_integer,
    "int_from_float": no_integer,
    "string_type": no_text,
    "string_pattern_mismatch": wrong_form,
    "too_short": empty,
    "string_too_long": wrong_length,
    "string_too_short": wrong_length,
    "too_long": wrong_length,
    "model_type": no_mapping,
    "model_attributes_type": no_mapping,
    "dict_type": no_mapping,
    "tuple_type": no_list,
    "list_type": no_list,
    "value_error": from_validator,
}


def one_of(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"one of: {', '.join(choices)}"


# ---- the field and the type at a location


def keys_at(location: Location, root: type[BaseModel]) -> list[str]:
    """The keys that the mapping at a location may have; empty if there is no mapping with fixed keys."""
    model = type_at(location, root)
    if not is_model(model):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def purpose(location: Location, root: type[BaseModel]) -> str:
    """The description of the field at a location, with an example if it has one; or its name.

    An item of a list and a value of a mapping are described by their field.
    """
    field = field_at(location, root) or field_at(location[:-1], root)
    if field is None or not field.description:
        return f"a value for {location[-1]}"
    examples = f", like {field.examples[0]}" if field.examples else ""
    return f"{field.description[0].lower()}{field.description[1:].rstrip('.')}{examples}"


def literal_choices(location: Location, root: type[BaseModel]) -> tuple[Any, ...]:
    kind = type_at(location, root)
    return get_args(kind) if get_origin(kind) is Literal else ()


def field_at(location: Location, root: type[BaseModel]) -> FieldInfo | None:
    """The field at a location; None if the types have none there."""
    model = type_at(location[:-1], root)
    if not is_model(model):
        return None
    return next((field for name, field in model.model_fields.items() if location[-1] in (name, field.alias)), None)


def type_at(location: Location, root: type[BaseModel]) -> Any:
    """The type that is expected at a location; None if the types have none there."""
    current: Any = root
    for part in location:
        current = plain_type(current)
        if isinstance(part, int):
            current = next(iter(get_args(current)), None)
        elif get_origin(current) is dict:
            current = get_args(current)[1]
        elif is_model(current):
            fields = (field for name, field in current.model_fields.items() if part in (name, field.alias))
            current = next((field.annotation for field in fields), None)
        else:
            return None
    return plain_type(current)


def is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def plain_type(annotation: Any) -> Any:
    """`X` of `X | None` and of `Annotated[X, …]`. Other types stay."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else annotation
    return annotation
