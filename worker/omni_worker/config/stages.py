"""Reads the file of --stage-config: the stages of the pipeline, in YAML or JSON."""

import json
from pathlib import Path
from typing import Any

import yaml

from omni_worker.config import lora_source
from omni_worker.config.endpoint import ENGINE, from_fields
from omni_worker.config.records import Stage
from omni_worker.errors import UsageError

ENGINES = ("autoregressive", "diffusion")
"""The engines of replicas."""
TASKS = ("generate", "encode")
INPUTS = ("text", "hidden-states")
CHOICES = {"engine": (*ENGINES, ENGINE), "task": TASKS, "input": INPUTS}
"""The allowed values of a stage's fields."""
EXAMPLE = {"stages": [{"id": 0, "name": "painter"}]}


def read_stages(file: str) -> tuple[Stage, ...]:
    """Read the stages from `file`. Raises UsageError, naming the file and what is wrong with it."""
    try:
        document: Any = yaml.safe_load(Path(file).read_text())
    except OSError as error:
        raise UsageError(f"--stage-config {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--stage-config {file}: not YAML: {error}") from error
    try:
        stages = tuple(_stage(**entry) for entry in document["stages"])
    except (TypeError, KeyError) as error:
        raise UsageError(f"--stage-config {file}: expected {json.dumps(EXAMPLE)}; {error}") from error
    except UsageError as error:
        raise UsageError(f"--stage-config {file}: {error}") from error
    if len({stage.id for stage in stages}) != len(stages) or not stages:
        raise UsageError(f"--stage-config {file}: `stages` needs one entry or more, each with an id of its own")
    for stage, following in zip(stages, (*stages[1:], None), strict=True):
        _check_choices(file, stage)
        if problem := _endpoint_problem(stage, following):
            raise UsageError(f"--stage-config {file}: stage {stage.name!r} {problem}")
    return stages


def _stage(loras: Any = (), endpoint: Any = None, **entry: Any) -> Stage:
    """A stage from its entry. Raises UsageError for a wrong adapter or endpoint, and TypeError for unknown fields."""
    return Stage(
        **entry,
        loras=lora_source.unique([lora_source.from_fields(fields) for fields in loras], "loras"),
        endpoint=None if endpoint is None else from_fields(endpoint),
    )


def _endpoint_problem(stage: Stage, following: Stage | None) -> str | None:
    """What is wrong with the fields of a stage that is a server; None if nothing is."""
    if stage.engine != ENGINE:
        return None if stage.endpoint is None else f"has an endpoint, which is for the engine {ENGINE}: remove it"
    if stage.endpoint is None:
        return f'has the engine {ENGINE} and no endpoint; give it {{"url": "http://HOST:PORT/v1", "model": "NAME"}}'
    default = Stage(stage.id, stage.name)
    for name in ("task", "model", "revision", "wake_seconds", "loras"):
        if getattr(stage, name) != getattr(default, name):
            return f"has {name}, and its server decides that: remove it"
    if "hidden-states" in (stage.input, following.input if following else None):
        return "takes and gives only text, and no hidden-states: set the input to text"
    return None


def _check_choices(file: str, stage: Stage) -> None:
    """Raises UsageError if a field of the stage has none of its allowed values."""
    for name, values in CHOICES.items():
        if getattr(stage, name) not in values:
            raise UsageError(
                f"--stage-config {file}: stage {stage.name!r} has {name} {getattr(stage, name)!r}; "
                f"choose one of {', '.join(values)}"
            )
