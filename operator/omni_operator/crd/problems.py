"""What is wrong with a manifest, in words: field, value, what was expected, what to do.

It turns pydantic's errors into `Problem`s. It knows nothing about single fields: the expectation comes from the type,
so a new field explains itself.
"""

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, at one field."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidSpec(Exception):
    """A manifest that cannot be accepted; its text names every problem."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


def explain(error: ValidationError, root: type[BaseModel]) -> list[Problem]:
    """Every problem of a failed validation of `root`, in the order of the fields."""
    return [Problem(dotted(detail["loc"]), wording(detail, root)) for detail in error.errors() if not echo(detail)]


def echo(detail: ErrorDetails) -> bool:
    """Whether an error only follows from others: pydantic calls a list too short when its items are invalid."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def dotted(location: tuple[int | str, ...]) -> str:
    """`("spec", "stages", 0, "name")` as a reader would write it: `spec.stages[0].name`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".") or "the object"


def wording(detail: ErrorDetails, root: type[BaseModel]) -> str:
    """The message of one error, without its path."""
    value, limits = detail["input"], detail.get("ctx", {})
    shown = json.dumps(value, default=str, ensure_ascii=False)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}…"
    match detail["type"]:
        case "extra_forbidden":
            return unknown_key(str(detail["loc"][-1]), known_keys(detail["loc"][:-1], root))
        case "missing":
            return f"is missing; expected {purpose(detail['loc'], root)}"
        case "greater_than_equal":
            least = limits["ge"]
            judgement = "is negative" if value < 0 else f"is below {least}"
            return f"{value} {judgement}; expected a whole number of {least} or more"
        case "less_than_equal":
            return f"{value} is above {limits['le']}; expected {limits['le']} at most"
        case "literal_error":
            choices = [str(choice) for choice in literal_choices(detail["loc"], root)]
            hint = nearest(str(value), choices)
            return f"{shown} is not known; expected {one_of(choices)}{hint}"
        case "int_type" | "int_parsing" | "int_from_float":
            return f"{shown} is not a whole number; expected one, like 2, without quotes"
        case "string_type":
            return f"{shown} is not text; put it in quotes"
        case "string_pattern_mismatch":
            return f"{shown} has the wrong form; expected {purpose(detail['loc'], root)}"
        case "too_short":
            return f"is empty; expected {purpose(detail['loc'], root)}"
        case "string_too_long" | "string_too_short" | "too_long":
            return f"{shown}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{shown} is not a mapping; expected keys and values{keys_of(detail['loc'], root)}"
        case "tuple_type" | "list_type":
            return f"{shown} is not a list; expected items that start with a dash"
        case "value_error":
            return f"{shown}: {limits['error']}"
        case _:
            return f"{shown}: {detail['msg']}"


def unknown_key(key: str, known: list[str]) -> str:
    hint = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    if hint:
        return f"is not a known key; did you mean {hint[0]!r}?"
    return f"is not a known key; expected {one_of(known)}"


def nearest(value: str, choices: list[str]) -> str:
    found = difflib.get_close_matches(value, choices, n=1, cutoff=0.7)
    return f"; did you mean {found[0]!r}?" if found and len(choices) > 1 else ""


def one_of(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"one of: {', '.join(choices)}"


# ---- finding the type that a location speaks of


def known_keys(location: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    """The keys that the mapping at a location may have."""
    model = type_at(location, root)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def keys_of(location: tuple[int | str, ...], root: type[BaseModel]) -> str:
    keys = known_keys(location, root)
    return f" ({', '.join(keys)})" if keys else ""


def purpose(location: tuple[int | str, ...], root: type[BaseModel]) -> str:
    """What the field is for: its description, or its name."""
    field = field_at(location, root)
    if field is None or not field.description:
        return f"a value for {location[-1]}"
    examples = f", like {field.examples[0]}" if field.examples else ""
    return f"{field.description[0].lower()}{field.description[1:].rstrip('.')}{examples}"


def literal_choices(location: tuple[int | str, ...], root: type[BaseModel]) -> tuple[Any, ...]:
    field = field_at(location, root)
    return get_args(bare(field.annotation)) if field else ()


def field_at(location: tuple[int | str, ...], root: type[BaseModel]) -> FieldInfo | None:
    model = type_at(location[:-1], root)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    return next((f for name, f in model.model_fields.items() if location[-1] in (name, f.alias)), None)


def type_at(location: tuple[int | str, ...], root: type[BaseModel]) -> Any:
    """The type that is expected at a location; None where the location leaves the types."""
    current: Any = root
    for part in location:
        current = bare(current)
        if isinstance(part, int):
            current = next(iter(get_args(current)), None)
        elif isinstance(current, type) and issubclass(current, BaseModel):
            fields = (f for name, f in current.model_fields.items() if part in (name, f.alias))
            current = next((f.annotation for f in fields), None)
        else:
            return None
    return bare(current)


def bare(annotation: Any) -> Any:
    """The type itself: `X` of `X | None`."""
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else annotation
    return annotation
