"""The only way from a manifest to an `OmniPipeline`: it checks the types first, then the rules across fields. Pure."""

from collections.abc import Mapping

from pydantic import ValidationError

from omni_operator.crd.objects import Object
from omni_operator.crd.problems import InvalidSpec, Problem
from omni_operator.crd.rules.every_rule import RULES
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.validation_errors import explain

MAX_DEPTH = 100
"""Levels of the spec. A pod template has some 15. The API server accepts 10,000, too many for recursive functions."""


def parse(manifest: Object) -> OmniPipeline:
    """Return the pipeline that a manifest describes. Raises InvalidSpec with every problem and the field of each."""
    if is_deeper(manifest.get("spec"), MAX_DEPTH):
        raise InvalidSpec([Problem("spec", f"has more than {MAX_DEPTH} levels below it; look into its templates")])
    try:
        pipeline = OmniPipeline.model_validate(manifest)
    except ValidationError as error:
        raise InvalidSpec(explain(error, OmniPipeline)) from None
    problems = [problem for rule in RULES for problem in rule.check(pipeline)]
    if problems:
        raise InvalidSpec(problems)
    return pipeline


def is_deeper(value: object, levels: int) -> bool:
    """Whether a value has more levels of mappings and lists. Not recursive."""
    level = [value]
    for _ in range(levels + 1):
        below: list[object] = []
        for one in level:
            if isinstance(one, Mapping):
                below += one.values()
            elif isinstance(one, list):
                below += one
        if not below:
            return False
        level = below
    return True
