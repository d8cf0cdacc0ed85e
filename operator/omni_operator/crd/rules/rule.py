"""What a rule is: a check of the whole pipeline, and the same in CEL for the API server. Pure."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from omni_operator.crd.base import Record
from omni_operator.crd.problems import Problem
from omni_operator.crd.spec.pipeline import OmniPipeline

Check = Callable[[OmniPipeline], Iterable[Problem]]


@dataclass(frozen=True)
class Validation:
    """A rule in CEL, about one part of the object. `self` is that part, with the schema's defaults.

    part: like spec.model or spec.stages[]
    field: the field that is wrong, below the part, like .replicas; empty for the part itself
    """

    part: str
    expression: str
    message: str
    field: str = ""

    @property
    def is_transition(self) -> bool:
        """Whether it is about a change of the object."""
        return "oldSelf" in self.expression


@dataclass(frozen=True)
class Rule:
    """A check, and what of it the API server can check by itself."""

    check: Check
    validations: tuple[Validation, ...] = ()


def in_cel(*validations: Validation) -> Callable[[Check], Rule]:
    """Decorator: makes a rule of a check and its validations."""
    return lambda check: Rule(check, validations)


def is_unset(path: str, field: FieldInfo) -> str:
    """Whether a field has its default, in CEL. `path`: like self.replicas."""
    if field.default_factory is None:
        if field.default is None or field.default == ():
            return f"(!has({path})" + (f" || size({path}) == 0)" if field.default == () else ")")
        return f"{path} == {json.dumps(field.default)}"
    kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, Record):
        below = (is_unset(f"{path}.{one.alias or name}", one) for name, one in kind.model_fields.items())
        return f"(!has({path}) || {' && '.join(below)})"
    return f"(!has({path}) || size({path}) == 0)"
