"""Rules about single stages, and about pod templates."""

from collections.abc import Iterable

from omni_operator.crd import pod_template
from omni_operator.crd.problems import Problem
from omni_operator.crd.rules.rule import Rule, Validation, in_cel, is_unset
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Autoscaling, Stage
from omni_settings.load import LoadSettings

STAGE = "spec.stages[]"
AUTOSCALING = f"{STAGE}.autoscaling"


@in_cel(
    Validation(
        STAGE,
        "self.engine != 'autoregressive' || self.parallelism.cfg == 1",
        "an autoregressive stage has no guidance to divide; use parallelism.pipeline, which spreads its layers",
        ".parallelism.cfg",
    ),
    Validation(
        STAGE,
        "self.engine != 'autoregressive' || self.scheduling.mode == 'step'",
        "an autoregressive stage always runs token by token; remove it",
        ".scheduling.mode",
    ),
    Validation(
        STAGE,
        "self.engine != 'diffusion' || !has(self.task)",
        "tasks are for autoregressive stages; remove it",
        ".task",
    ),
    Validation(
        STAGE,
        "self.engine != 'diffusion' || self.parallelism.pipeline == 1",
        "the layers of a diffusion stage are not spread; use parallelism.cfg or ulysses",
        ".parallelism.pipeline",
    ),
)
def settings_suit_the_engine(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        if not stage.is_endpoint:
            problems = autoregressive_problems if stage.is_autoregressive else diffusion_problems
            yield from problems(stage, f"spec.stages[{index}]")


def autoregressive_problems(stage: Stage, path: str) -> Iterable[Problem]:
    """Settings of an autoregressive stage that only diffusion stages have."""
    if stage.parallelism.cfg > 1:
        yield Problem(
            f"{path}.parallelism.cfg",
            f"is {stage.parallelism.cfg}, and an autoregressive stage has no guidance to divide; use"
            " parallelism.pipeline, which spreads its layers",
        )
    if stage.scheduling.mode == "request":
        yield Problem(
            f"{path}.scheduling.mode",
            "is request, and an autoregressive stage always runs token by token; remove it",
        )


def diffusion_problems(stage: Stage, path: str) -> Iterable[Problem]:
    """Settings of a diffusion stage that only autoregressive stages have."""
    if stage.task is not None:
        yield Problem(f"{path}.task", f"is {stage.task}, and tasks are for autoregressive stages; remove it")
    if stage.parallelism.pipeline > 1:
        yield Problem(
            f"{path}.parallelism.pipeline",
            f"is {stage.parallelism.pipeline}, and the layers of a diffusion stage are not spread; use parallelism.cfg"
            " or ulysses",
        )


@in_cel(
    *(
        Validation(
            STAGE,
            f"!has(self.{key}) || self.engine != 'diffusion' && !(has(self.task) && self.task == 'encode')",
            "belongs to stages that write text; remove it",
            f".{key}",
        )
        for key in ("system", "maxTokens")
    ),
    Validation(
        STAGE,
        "!has(self.loras) || size(self.loras) == 0 || self.engine != 'autoregressive'"
        " || (has(self.task) && self.task == 'encode')",
        "adapters are for stages that draw or encode; remove them",
        ".loras",
    ),
)
def only_generators_have_generation_settings(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        if stage.writes_text:
            if stage.loras and not stage.is_endpoint:
                yield Problem(
                    f"spec.stages[{index}].loras",
                    f"are for stages that draw or encode, and {stage.name!r} writes text; remove them",
                )
            continue
        what = "a diffusion stage" if stage.draws else "an encoder"
        for key, value in (("system", stage.system), ("maxTokens", stage.max_tokens)):
            if value is not None:
                yield Problem(
                    f"spec.stages[{index}].{key}",
                    f"is for stages that write text, and {stage.name!r} is {what}; remove it",
                )


@in_cel(
    Validation(
        STAGE,
        "!has(self.load) || self.engine != 'autoregressive' || (has(self.task) && self.task == 'encode') || "
        + " && ".join(
            is_unset(f"self.load.{field.alias or name}", field)
            for name, field in LoadSettings.model_fields.items()
            if name != "dtype"
        ),
        "a language model takes dtype alone; remove the other keys",
        ".load",
    ),
    Validation(
        STAGE,
        "!has(self.load) || !has(self.load.compile) || !has(self.loras) || size(self.loras) == 0",
        "a compiled model takes no adapters; remove it, or the loras",
        ".load.compile",
    ),
)
def loading_suits_the_stage(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        path = f"spec.stages[{index}].load"
        if stage.is_autoregressive and not stage.only_encodes:
            if keys := stage.load.needs_pipeline:
                yield Problem(
                    path,
                    f"has {', '.join(keys)}, and {stage.name!r} is a language model; keep dtype, and remove the rest",
                )
        elif stage.load.compile and stage.loras:
            yield Problem(f"{path}.compile", "is set, and a compiled model takes no adapters; remove it, or the loras")


@in_cel(
    Validation(
        STAGE,
        "!has(self.cache) || self.cache.mode == 'none'"
        " || self.engine != 'autoregressive' && self.scheduling.mode == 'step'",
        "model calls are left out only in diffusion stages in step mode; remove it",
        ".cache",
    ),
)
def only_stepped_stages_leave_out_calls(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        is_stepped = not stage.is_autoregressive and stage.scheduling.mode == "step"
        if stage.cache is not None and stage.cache.mode != "none" and not is_stepped:
            yield Problem(
                f"spec.stages[{index}].cache",
                f"leaves out model calls only in diffusion stages in step mode, and {stage.name!r} is none; remove it",
            )


@in_cel(
    Validation(
        f"{STAGE}.accelerator",
        " + ".join(f"(has(self.{key}) ? 1 : 0)" for key in ("resource", "deviceClassName", "resourceClaimTemplateName"))
        + " <= 1",
        "keep one of resource, deviceClassName and resourceClaimTemplateName",
    )
)
def devices_are_named_once(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        if stage.accelerator is None:
            continue
        given = {
            "resource": stage.accelerator.resource,
            "deviceClassName": stage.accelerator.device_class_name,
            "resourceClaimTemplateName": stage.accelerator.resource_claim_template_name,
        }
        named = [key for key, value in given.items() if value is not None]
        if len(named) > 1:
            yield Problem(
                f"spec.stages[{index}].accelerator",
                f"says what a device is by {' and '.join(named)}; keep one of them",
            )


@in_cel(
    Validation(
        STAGE,  # not its rollout, whose default the API server checks without the defaults below it
        "!((self.rollout.maxUnavailable == 0 || self.rollout.maxUnavailable == '0%')"
        " && (self.rollout.maxSurge == 0 || self.rollout.maxSurge == '0%'))",
        "maxUnavailable and maxSurge are both 0, so a rollout could never begin; set one of them to 1",
        ".rollout",
    )
)
def rollout_can_start(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        if all(value in (0, "0%") for value in (stage.rollout.max_unavailable, stage.rollout.max_surge)):
            yield Problem(
                f"spec.stages[{index}].rollout",
                "maxUnavailable and maxSurge are both 0, so a rollout could never begin; set one of them to 1",
            )


@in_cel(
    Validation(
        STAGE,
        "!has(self.autoscaling) || !has(self.replicas)",
        "autoscaling chooses the count; remove one of the two",
        ".replicas",
    )
)
def counts_have_one_writer(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        if stage.autoscaling is not None and stage.replicas is not None:
            yield Problem(
                f"spec.stages[{index}].replicas",
                f"is {stage.replicas}, and autoscaling chooses the count; remove one of the two",
            )


# What only the operator's own scaling reads, and what the field has if nobody sets it.
OF_OUR_SCALING = {
    field.alias or name: field.default
    for name, field in Autoscaling.model_fields.items()
    if name not in ("mode", "max_replicas")
}


@in_cel(
    Validation(
        AUTOSCALING,
        "self.mode != 'load' || has(self.maxReplicas)",
        "required for mode load: the most headless pods of the stage",
        ".maxReplicas",
    ),
    Validation(
        AUTOSCALING,
        "self.mode != 'load' || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
        "must be at most maxReplicas",
        ".minReplicas",
    ),
    Validation(
        AUTOSCALING,
        "self.mode == 'load' || !has(self.maxReplicas)",
        "belongs to mode load; with mode external the other autoscaler has bounds of its own, so remove it",
        ".maxReplicas",
    ),
    *(
        Validation(
            AUTOSCALING,
            f"self.mode == 'load' || self.{key} == {default}",
            "belongs to mode load; with mode external the other autoscaler has bounds of its own, so remove it",
            f".{key}",
        )
        for key, default in OF_OUR_SCALING.items()
    ),
)
def bounds_suit_the_autoscaler(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        if stage.autoscaling is not None:
            problems = bounds_problems if stage.is_autoscaled else external_problems
            yield from problems(stage.autoscaling, f"spec.stages[{index}].autoscaling")


def bounds_problems(bounds: Autoscaling, path: str) -> Iterable[Problem]:
    """What is wrong with the bounds of the operator's own scaling."""
    if bounds.max_replicas is None:
        yield Problem(f"{path}.maxReplicas", "is missing; expected the most headless pods of the stage")
    elif bounds.min_replicas > bounds.max_replicas:
        yield Problem(
            f"{path}.minReplicas",
            f"is {bounds.min_replicas}, and maxReplicas is {bounds.max_replicas}; set it to that at most",
        )


def external_problems(bounds: Autoscaling, path: str) -> Iterable[Problem]:
    """Settings that have no effect where another autoscaler writes the count."""
    given = bounds.model_dump(by_alias=True)
    for key, default in {"maxReplicas": None, **OF_OUR_SCALING}.items():
        if given[key] != default:
            yield Problem(
                f"{path}.{key}",
                f"is {given[key]}, for mode load; with mode external the other autoscaler has bounds of its own, so"
                " remove it",
            )


def _templates_can_be_merged(pipeline: OmniPipeline) -> Iterable[Problem]:
    yield from pod_template.problems(pipeline.spec.head.template, "spec.head.template")
    for index, stage in enumerate(pipeline.spec.stages):
        yield from pod_template.problems(stage.template, f"spec.stages[{index}].template")


# Templates have no schema, and so no validation in CEL.
TEMPLATES_CAN_BE_MERGED = Rule(_templates_can_be_merged)
