"""How the stages of a pipeline follow each other, and which of them is inside the head."""

from collections.abc import Iterable
from itertools import pairwise

from omni_operator.crd.patterns import HEAD
from omni_operator.crd.problems import Problem
from omni_operator.crd.rules.rule import Validation, in_cel
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Stage

LAST = "self.stages[size(self.stages) - 1]"


# That names are unique says the schema: they are the key of the list.
@in_cel(
    Validation(
        "spec.stages[]",
        f"self.name != '{HEAD}'",
        f"'{HEAD}' is the name of the pipeline's own head; give the stage another name",
        ".name",
    )
)
def stage_names_are_unique(pipeline: OmniPipeline) -> Iterable[Problem]:
    first: dict[str, int] = {}
    for index, stage in enumerate(pipeline.spec.stages):
        if stage.name in first:
            yield Problem(
                f"spec.stages[{index}].name",
                f"{stage.name!r} is already the name of spec.stages[{first[stage.name]}]; give each stage its own name",
            )
        first.setdefault(stage.name, index)
        if stage.name == HEAD:
            yield Problem(
                f"spec.stages[{index}].name",
                f"'{HEAD}' is the name of the pipeline's own head; give the stage another name",
            )


@in_cel(
    Validation(
        "spec",
        "!has(self.stages[0].input)",
        "the first stage takes the request itself; remove the input of the first stage",
        ".stages",
    ),
    Validation(
        "spec",
        f"self.stages.all(stage, stage.engine != 'diffusion' || stage.name == {LAST}.name)",
        "no stage can take a diffusion stage's pictures; make it the last",
        ".stages",
    ),
    Validation(
        "spec.stages[]",
        "self.engine == 'diffusion' || !has(self.input) || self.input != 'hidden-states'",
        "a stage that reads and writes text takes text only; set it to text",
        ".input",
    ),
    Validation(
        "spec",
        "size(self.stages) < 2 || self.stages[size(self.stages) - 2].engine != 'openai'"
        f" || !has({LAST}.input) || {LAST}.input != 'hidden-states'",
        "a server outside the pipeline gives only text; set the input of the stage after it to text",
        ".stages",
    ),
    Validation(
        "spec",
        "self.stages.all(stage, stage.engine != 'autoregressive' || !has(stage.task) || stage.task != 'encode'"
        " || size(self.stages) > 1 && stage.name == self.stages[size(self.stages) - 2].name"
        f" && has({LAST}.input) && {LAST}.input == 'hidden-states')",
        "a stage that only encodes gives no text; set its task to generate, or let a diffusion stage with input"
        " hidden-states come after it",
        ".stages",
    ),
)
def stages_fit_together(pipeline: OmniPipeline) -> Iterable[Problem]:
    """The input of a stage must be the output of the stage before it."""
    stages = pipeline.spec.stages
    if stages[0].input is not None:
        yield Problem(
            "spec.stages[0].input", f"is {stages[0].input}, and the first stage takes the request itself; remove it"
        )
    for index, (before, stage) in enumerate(pairwise(stages), start=1):
        yield from input_problems(index, stage, before)
    last = stages[-1]
    if last.is_autoregressive and last.only_encodes:
        yield Problem(
            f"spec.stages[{len(stages) - 1}].task",
            f"is encode, and no stage comes after {last.name!r}, so that no request would get an answer; set it to"
            " generate, or add a diffusion stage with input hidden-states",
        )


def input_problems(index: int, stage: Stage, before: Stage) -> Iterable[Problem]:
    """Why a stage cannot follow the stage before it."""
    if before.draws:
        yield Problem(
            f"spec.stages[{index}]",
            f"{stage.name!r} comes after {before.name!r}, a diffusion stage, whose pictures no stage can take; make"
            f" {before.name!r} the last stage",
        )
    if stage.takes_hidden_states and not stage.draws:
        yield Problem(
            f"spec.stages[{index}].input",
            "is hidden-states, and a stage that reads and writes text takes text only; set it to text",
        )
    elif stage.takes_hidden_states and before.is_endpoint:
        yield Problem(
            f"spec.stages[{index}].input",
            f"is hidden-states, and {before.name!r} before it is a server outside the pipeline, which gives only text;"
            " set it to text",
        )
    elif before.is_autoregressive and before.only_encodes and not stage.takes_hidden_states:
        or_take = "" if not stage.draws else "input to hidden-states, or "
        yield Problem(
            f"spec.stages[{index}].input",
            f"is text, and {before.name!r} before it only encodes and gives no text; set {or_take}the task of"
            f" {before.name!r} to generate",
        )


@in_cel(
    Validation(
        "spec",
        "!has(self.head.stage) || self.stages.exists(stage, stage.name == self.head.stage)",
        "expected the name of a stage",
        ".head.stage",
    )
)
def head_stage_exists(pipeline: OmniPipeline) -> Iterable[Problem]:
    names = [stage.name for stage in pipeline.spec.stages]
    if pipeline.spec.head.stage is not None and pipeline.spec.head.stage not in names:
        yield Problem(
            "spec.head.stage", f"{pipeline.spec.head.stage!r} is not a stage; expected one of: {', '.join(names)}"
        )
