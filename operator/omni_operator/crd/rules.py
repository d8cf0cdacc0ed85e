"""The rules across the fields of an `OmniPipeline`: each is a function that yields every problem it finds. Pure.

The types in `spec` check single fields. A problem names the field, its value, and what to do.
"""

import re
from collections.abc import Callable, Iterable
from itertools import pairwise

from omni_operator.crd import pod_template
from omni_operator.crd.patterns import DNS_LABEL, HEAD
from omni_operator.crd.problems import Problem
from omni_operator.crd.quantities import integer_quantity
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Stage


def name_fits_services(pipeline: OmniPipeline) -> Iterable[Problem]:
    if not re.match(DNS_LABEL, pipeline.name) or len(pipeline.name) > 50:
        yield Problem(
            "metadata.name",
            f"{pipeline.name!r} cannot name the pipeline's Services; use at most 50 lower-case letters, digits and"
            " dashes, starting with a letter",
        )


def hub_settings_need_a_hub_model(pipeline: OmniPipeline) -> Iterable[Problem]:
    for path, model in pipeline.models.items():
        if not model.source.startswith("hf://"):
            for key, value in (("revision", model.revision), ("tokenSecretRef", model.token_secret_ref)):
                if value is not None:
                    yield Problem(
                        f"{path}.{key}", f"is only for models of the hub, and the source is {model.source}; remove it"
                    )


def one_cache_serves_all_models(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        if stage.model and stage.model.cache:
            yield Problem(
                f"spec.stages[{index}].model.cache",
                "is of a single stage, and one cache serves the models of all stages; move it to spec.model.cache",
            )
    cache = pipeline.spec.model.cache
    if cache is None:
        return
    if not any(model.source.startswith("hf://") for model in pipeline.models.values()):
        yield Problem("spec.model.cache", "is for models of the hub, and no stage takes one from there; remove it")


def claims_have_a_name_or_a_size(pipeline: OmniPipeline) -> Iterable[Problem]:
    for path, storage in (
        ("spec.model.cache", pipeline.spec.model.cache),
        ("spec.videos.storage", pipeline.spec.videos.storage),
    ):
        if storage is None:
            continue
        if (storage.claim_name is None) == (storage.size is None):
            which = "neither claimName nor size" if storage.size is None else "both claimName and size"
            yield Problem(path, f"has {which}; give claimName for a claim of your own, or size for one that is made")
        elif storage.claim_name is not None:
            for key, is_given in (("storageClass", storage.storage_class is not None), ("retain", storage.retain)):
                if is_given:
                    yield Problem(
                        f"{path}.{key}",
                        f"is for a claim that is made, and claimName names one of your own, {storage.claim_name!r};"
                        " remove one of the two",
                    )


def videos_have_one_storage(pipeline: OmniPipeline) -> Iterable[Problem]:
    videos = pipeline.spec.videos
    if videos.storage is not None and videos.database_url_secret_ref is not None:
        yield Problem(
            "spec.videos.databaseUrlSecretRef",
            f"names the Secret {videos.database_url_secret_ref.name!r}, and spec.videos.storage a volume, and videos"
            " are kept in one of them; remove the other",
        )


def sizes_are_above_zero(pipeline: OmniPipeline) -> Iterable[Problem]:
    for path, size in (
        ("spec.api.limits.bodySize", pipeline.spec.api.limits.body_size),
        ("spec.api.limits.totalBodySize", pipeline.spec.api.limits.total_body_size),
        ("spec.videos.maxSize", pipeline.spec.videos.max_size),
    ):
        if size is not None and not integer_quantity(size):
            yield Problem(path, f"is {size}, which leaves room for nothing; leave it out for the default")


def one_body_fits_into_the_total(pipeline: OmniPipeline) -> Iterable[Problem]:
    one, total = pipeline.spec.api.limits.body_size, pipeline.spec.api.limits.total_body_size
    if one is not None and total is not None and integer_quantity(total) < integer_quantity(one):
        yield Problem(
            "spec.api.limits.totalBodySize",
            f"is {total}, and one body may have {one} (bodySize), so that the largest never fit; raise it, or lower"
            " bodySize",
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
                "'head' is the name of the pipeline's own head; give the stage another name",
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
    """Why a stage cannot follow the stage before it: at most one problem."""
    if not before.is_autoregressive:
        yield Problem(
            f"spec.stages[{index}]",
            f"{stage.name!r} comes after {before.name!r}, a diffusion stage, whose pictures no stage can take; make"
            f" {before.name!r} the last stage",
        )
    elif stage.takes_hidden_states and stage.is_autoregressive:
        yield Problem(
            f"spec.stages[{index}].input",
            "is hidden-states, and an autoregressive stage takes text only; set it to text",
        )
    elif before.only_encodes and not stage.takes_hidden_states:
        or_take = "" if stage.is_autoregressive else "input to hidden-states, or "
        yield Problem(
            f"spec.stages[{index}].input",
            f"is text, and {before.name!r} before it only encodes and gives no text; set {or_take}the task of"
            f" {before.name!r} to generate",
        )


def settings_suit_the_engine(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
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
            f"is {stage.parallelism.pipeline}, and the layers of a diffusion stage are not spread; use parallelism.cfg",
        )


def only_generators_have_generation_settings(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        if stage.is_autoregressive and not stage.only_encodes:
            continue
        what = "an encoder" if stage.is_autoregressive else "a diffusion stage"
        for key, value in (("system", stage.system), ("maxTokens", stage.max_tokens)):
            if value is not None:
                yield Problem(
                    f"spec.stages[{index}].{key}",
                    f"is for stages that write text, and {stage.name!r} is {what}; remove it",
                )


def head_stage_exists(pipeline: OmniPipeline) -> Iterable[Problem]:
    names = [stage.name for stage in pipeline.spec.stages]
    if pipeline.spec.head.stage is not None and pipeline.spec.head.stage not in names:
        yield Problem(
            "spec.head.stage", f"{pipeline.spec.head.stage!r} is not a stage; expected one of: {', '.join(names)}"
        )


def devices_are_used(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        key = "pipeline" if stage.is_autoregressive else "cfg"
        ranks, count = stage.parallelism.processes, stage.accelerator.count if stage.accelerator else None
        if count is not None and count != ranks:
            yield Problem(
                f"spec.stages[{index}].parallelism.{key}",
                f"is {ranks}, and accelerator.count is {count}: each process of a replica uses one device; set both to"
                " the same number",
            )
        if stage.parallelism.cfg > 1 and stage.scheduling.mode == "request":
            yield Problem(
                f"spec.stages[{index}].parallelism.cfg",
                f"is {ranks}, and scheduling.mode is request: a request that runs whole cannot be divided; set mode to"
                " step, or cfg to 1",
            )


def rollout_can_start(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        if all(value in (0, "0%") for value in (stage.rollout.max_unavailable, stage.rollout.max_surge)):
            yield Problem(
                f"spec.stages[{index}].rollout",
                "maxUnavailable and maxSurge are both 0, so a rollout could never begin; set one of them to 1",
            )


def counts_have_one_writer(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        path, bounds = f"spec.stages[{index}]", stage.autoscaling
        if bounds is None:
            continue
        if stage.replicas is not None:
            yield Problem(
                f"{path}.replicas", f"is {stage.replicas}, and autoscaling chooses the count; remove one of the two"
            )
        if bounds.min_replicas > bounds.max_replicas:
            yield Problem(
                f"{path}.autoscaling.minReplicas",
                f"is {bounds.min_replicas}, and maxReplicas is {bounds.max_replicas}; set it to that at most",
            )


def templates_can_be_merged(pipeline: OmniPipeline) -> Iterable[Problem]:
    yield from pod_template.problems(pipeline.spec.head.template, "spec.head.template")
    for index, stage in enumerate(pipeline.spec.stages):
        yield from pod_template.problems(stage.template, f"spec.stages[{index}].template")


# In the order in which problems are reported.
RULES: tuple[Callable[[OmniPipeline], Iterable[Problem]], ...] = (
    name_fits_services,
    hub_settings_need_a_hub_model,
    one_cache_serves_all_models,
    claims_have_a_name_or_a_size,
    videos_have_one_storage,
    sizes_are_above_zero,
    one_body_fits_into_the_total,
    stage_names_are_unique,
    stages_fit_together,
    head_stage_exists,
    settings_suit_the_engine,
    only_generators_have_generation_settings,
    devices_are_used,
    rollout_can_start,
    counts_have_one_writer,
    templates_can_be_merged,
)
