"""What a rule is: a check of the whole pipeline, and the same in CEL for the API server. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

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
