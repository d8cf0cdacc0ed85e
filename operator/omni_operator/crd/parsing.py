"""The only way from a manifest to an `OmniPipeline`: it checks the types first, then the rules across fields. Pure."""

from pydantic import ValidationError

from omni_operator.crd.objects import Object
from omni_operator.crd.problems import InvalidSpec, explain
from omni_operator.crd.rules import RULES
from omni_operator.crd.spec.pipeline import OmniPipeline


def parse(manifest: Object) -> OmniPipeline:
    """Return the pipeline that a manifest describes. Raises InvalidSpec with every problem and the field of each."""
    try:
        pipeline = OmniPipeline.model_validate(manifest)
    except ValidationError as error:
        raise InvalidSpec(explain(error, OmniPipeline)) from None
    problems = [problem for rule in RULES for problem in rule(pipeline)]
    if problems:
        raise InvalidSpec(problems)
    return pipeline
