"""The file that lists a pipeline's stages for the head, and the stages' numbers.

Stages are numbered from the last, which is 0. New stages are added in front, like a thinker before a painter. So the
numbers of the existing stages stay, and with them their command lines and pods.

The head reads the file when it starts. Only the LoRA adapters in it may change while it runs: the head notices that,
and has the replicas load and unload them.
"""

import json

from omni_operator.crd.spec.endpoint import Endpoint
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Lora, Stage
from omni_operator.planning.topology.files import ProcessFiles, endpoint_key_name
from omni_operator.planning.topology.model_sources import lora_location, model_location


def stage_id(pipeline: OmniPipeline, stage: Stage) -> int:
    return len(pipeline.spec.stages) - 1 - pipeline.spec.stages.index(stage)


def stage_config(pipeline: OmniPipeline, files: ProcessFiles, with_loras: bool = True) -> str:
    """The content of the file, in JSON. The stages are in the order in which a request passes them.

    Without the adapters, it is what the head reads only once.
    """
    entries = [stage_entry(pipeline, stage, files) for stage in pipeline.spec.stages]
    for entry, stage in zip(entries, pipeline.spec.stages, strict=True):
        if stage.loras and with_loras:
            entry["loras"] = [lora_entry(lora) for lora in stage.loras]
    return json.dumps({"stages": entries}, indent=2) + "\n"


def lora_entry(lora: Lora) -> dict[str, object]:
    entry = lora.model_dump(by_alias=True, exclude_none=True)
    return {**entry, "source": lora_location(lora)}


def loras_for(pipeline: OmniPipeline, stage: Stage) -> tuple[Lora, ...]:
    """The adapters that the replicas of a stage load. One that encodes loads those of the stage that it encodes for."""
    stages = pipeline.spec.stages
    following = stages[stages.index(stage) + 1 :][:1] if stage.only_encodes else ()
    names = {lora.name for lora in stage.loras}
    return (*stage.loras, *(lora for one in following for lora in one.loras if lora.name not in names))


def endpoint_entry(stage: Stage, endpoint: Endpoint, files: ProcessFiles) -> dict[str, object]:
    entry = endpoint.model_dump(exclude={"api_key_secret_ref"})
    if endpoint.api_key_secret_ref:
        entry["api_key_file"] = f"{files.endpoint_keys}/{endpoint_key_name(stage)}"
    return entry


def stage_entry(pipeline: OmniPipeline, stage: Stage, files: ProcessFiles) -> dict[str, object]:
    entry: dict[str, object] = {"id": stage_id(pipeline, stage), "name": stage.name, "engine": stage.engine}
    if stage.task:
        entry["task"] = stage.task
    if stage.system:
        entry["system"] = stage.system
    if stage.max_tokens:
        entry["max_tokens"] = stage.max_tokens
    if stage.input:
        entry["input"] = stage.input
    if stage.model:
        entry["model"] = model_location(stage.model)
        if stage.model.revision:
            entry["revision"] = stage.model.revision
    if stage.endpoint:
        entry["endpoint"] = endpoint_entry(stage, stage.endpoint, files)
    if stage.may_be_at_zero:
        entry["wake_seconds"] = stage.startup_timeout_seconds
    return entry
