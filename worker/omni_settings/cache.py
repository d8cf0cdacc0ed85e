"""How model calls are answered from earlier ones: `spec.stages[].cache`, `--cache`, and `cache` of a request."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, ValidationError, model_validator

from omni_settings.record import Record

Mode = Literal["none", "skip", "first-block", "taylor-seer", "mag", "faster", "pyramid-attention", "text-kv"]
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "skip": {"tolerance": 0.1, "max_consecutive": 4},
    "first-block": {"threshold": 0.05},
    "taylor-seer": {"interval": 5, "order": 1},
    "mag": {"threshold": 0.06, "max_consecutive": 3, "ratios": ()},
    "faster": {"interval": 2},
    "pyramid-attention": {"interval": 2},
    "text-kv": {},
}
"""The settings of each mode, and what they are where none are given. Those of diffusers' caches are diffusers' own."""
FORM = (
    f"give one of {', '.join(SETTINGS)}, or with settings, like skip,tolerance=0.05,maxConsecutive=4 or first-block,"
    "threshold=0.1"
)


def _rules() -> list[JsonValue]:
    """In CEL: each setting is given only with a mode that has it. `none` ignores them all."""
    modes_of: dict[str, list[str]] = {}
    for mode, settings in SETTINGS.items():
        for name in settings:
            modes_of.setdefault({"max_consecutive": "maxConsecutive"}.get(name, name), ["none"]).append(mode)
    return [
        {
            "rule": f"!has(self.{name}) || self.mode in {json.dumps(modes)}",
            "message": f"{name} is a setting of {' and '.join(modes[1:])}; remove it, or set mode",
        }
        for name, modes in modes_of.items()
    ]


class Cache(Record):
    """Which calls a cache leaves out, and how. A setting that is None is the mode's own, in SETTINGS."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": _rules()})

    mode: Mode = Field(
        default="skip",
        description="skip: leave out model calls where a request's predictions change smoothly, and extrapolate them,"
        " with any model. first-block, taylor-seer, mag, faster, pyramid-attention, text-kv: diffusers' caches inside"
        " transformers. none: compute all.",
    )
    tolerance: float | None = Field(
        default=None,
        description="Of skip: leave a step out if its predicted error, relative to the prediction, is at most this;"
        " absent means 0.1.",
        gt=0,
        le=1,
    )
    max_consecutive: int | None = Field(
        default=None,
        description="Of skip and mag: how many steps in a row may be left out; absent means 4 for skip, 3 for mag.",
        ge=1,
        le=100,
    )
    threshold: float | None = Field(
        default=None,
        description="Of first-block: leave the other blocks out if the first one's residual has changed by at most"
        " this, relatively; absent means 0.05. Of mag: the same for the error that adds up; absent means 0.06.",
        gt=0,
        le=10,
    )
    interval: int | None = Field(
        default=None,
        description="Of taylor-seer, faster and pyramid-attention: compute attention in one of so many steps; absent"
        " means 5 for taylor-seer, 2 for the others.",
        ge=2,
        le=100,
    )
    order: int | None = Field(
        default=None, description="Of taylor-seer: of the Taylor series; absent means 1.", ge=0, le=4
    )
    ratios: tuple[Annotated[float, Field(gt=0, le=100)], ...] | None = Field(
        default=None,
        description="Of mag: how the residual's magnitude changes from step to step, measured for the model; absent"
        " means those of FLUX, for FLUX models only.",
        min_length=1,
        max_length=1000,
        strict=False,
    )

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        for name in sorted(self.model_fields_set - {"mode"}):
            if getattr(self, name) is not None and self.mode != "none" and name not in SETTINGS[self.mode]:
                own, *others = [str(type(self).model_fields[one].alias) for one in (name, *SETTINGS[self.mode])]
                has = f"has {' and '.join(others)}" if others else "has none"
                raise ValueError(f"{own} is no setting of {self.mode}, which {has}; remove it")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """The mode, and the settings of it that are given."""
        return self.model_dump(exclude_none=True, include={"mode", *SETTINGS[self.mode]})

    @property
    def argument(self) -> str:
        """The same as the argument of --cache."""
        options = self.model_dump(by_alias=True, exclude_none=True, include={*SETTINGS[self.mode]})
        if "ratios" in options:
            return json.dumps({"mode": self.mode, **options})
        return ",".join([self.mode, *(f"{name}={value}" for name, value in options.items())])


def parse(text: str) -> Cache:
    """Read the argument of --cache: a mode with its settings, or JSON. Raises ValueError, which says what to give."""
    try:
        if text.startswith("{"):
            return Cache.model_validate_json(text)
        mode, *options = text.split(",")
        values: dict[str, Any] = {"mode": mode}
        for option in options:
            name, _, value = option.partition("=")
            if name in values or name not in (field.alias for field in Cache.model_fields.values()):
                raise ValueError(f"{text!r}: {option!r} is no setting, or given twice; {FORM}")
            values[name] = _number(value)
        return Cache.model_validate(values)
    except ValidationError as error:
        problems = [": ".join([*map(str, one["loc"]), one["msg"]]) for one in error.errors()]
        raise ValueError(f"{text!r}: {'; '.join(problems)}; {FORM}") from None


def _number(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
