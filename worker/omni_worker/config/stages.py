"""Reads the file of --stage-config: the stages of the pipeline, in YAML or JSON."""

import json
from pathlib import Path
from typing import Any

import yaml

from omni_worker.config import lora_source
from omni_worker.config.records import Stage
from omni_worker.errors import UsageError

ENGINES = ("autoregressive", "diffusion")
TASKS = ("generate", "encode")
INPUTS = ("text", "hidden-states")
CHOICES = {"engine": ENGINES, "task": TASKS, "input": INPUTS}
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
    for stage in stages:
        _check_choices(file, stage)
    return stages


def _stage(loras: Any = (), **entry: Any) -> Stage:
    """A stage from its entry. Raises UsageError for an adapter that is none, and TypeError for unknown fields."""
    return Stage(**entry, loras=lora_source.unique([lora_source.from_fields(fields) for fields in loras], "loras"))


def _check_choices(file: str, stage: Stage) -> None:
    """Raises UsageError if a field of the stage has none of its allowed values."""
    for name, values in CHOICES.items():
        if getattr(stage, name) not in values:
            raise UsageError(
                f"--stage-config {file}: stage {stage.name!r} has {name} {getattr(stage, name)!r}; "
                f"choose one of {', '.join(values)}"
            )
