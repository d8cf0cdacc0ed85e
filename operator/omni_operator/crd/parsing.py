"""The only way from a manifest to an `OmniPipeline`: it checks the types first, then the rules across fields. Pure."""

from pydantic import ValidationError

from omni_operator.crd.objects import Object
from omni_operator.crd.problems import InvalidSpec
from omni_operator.crd.rules import RULES
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.validation_errors import explain


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
