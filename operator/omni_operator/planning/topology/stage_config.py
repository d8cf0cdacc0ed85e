"""The file that lists a pipeline's stages for the head, and the stages' numbers.

Stages are numbered from the last, which is 0. New stages are added in front, like a thinker before a painter. So the
numbers of the existing stages stay, and with them their command lines and pods.
"""

import json

from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Stage
from omni_operator.planning.topology.model_sources import model_location


def stage_id(pipeline: OmniPipeline, stage: Stage) -> int:
    return len(pipeline.spec.stages) - 1 - pipeline.spec.stages.index(stage)


def stage_config(pipeline: OmniPipeline) -> str:
    """The content of the file, in JSON. The stages are in the order in which a request passes them."""
    return json.dumps({"stages": [stage_entry(pipeline, stage) for stage in pipeline.spec.stages]}, indent=2) + "\n"


def stage_entry(pipeline: OmniPipeline, stage: Stage) -> dict[str, object]:
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
    if stage.may_be_at_zero:
        entry["wake_seconds"] = stage.startup_timeout_seconds
    return entry
