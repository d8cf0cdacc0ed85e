"""What is known about a model before it is served: its class, whether it runs step by step, and its phases.

`make survey` tries the classes of diffusers and writes `model_survey.json`.
"""

import contextlib
import difflib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from omni_operator.commands.hub_files import read_hub_file
from omni_operator.commands.model_weights import weights_elsewhere, weights_in_folder, weights_on_hub
from omni_settings.model_index import INDEX_FILES, ModelIndex, parse_model_index
from omni_settings.model_size import GB, MemoryNeed

HUB_PREFIX = "hf://"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
BUILTIN_CLASSES = {"builtin://digits": "QwenImagePipeline"}


class UnknownModel(Exception):
    """Nothing is known about the model. The message says why."""

    exit_code = 1


class ModelInfo(BaseModel):
    """What is known about a model. `omni models MODEL --output json` prints these fields.

    pipeline: its class
    steps: whether it runs step by step; None if its class was not tried
    alike: the tried classes with similar names, if its own was not tried
    weights: bytes of each component's weights in bfloat16, if they are known
    shares: the models that it calls in every step, and whether several requests share one of their calls
    """

    model: str
    pipeline: str
    family: str | None = None
    task: str | None = None
    steps: bool | None = None
    phases: list[str] = []
    alike: list[str] = []
    shares: dict[str, bool] = {}
    weights: dict[str, float] = {}

    def properties(self) -> Iterator[tuple[str, str]]:
        """Names and values, for people."""
        yield "class", self.pipeline
        if self.family:
            yield "family", f"{self.family}, {self.task}"
        elif self.task:
            yield "task", self.task
        not_tried = f"not tried; tried were {', '.join(self.alike)}" if self.alike else "not tried"
        yield "steps", {True: "yes", False: "no: it runs in request mode", None: not_tried}[self.steps]
        if self.phases:
            yield "phases", " → ".join(self.phases)
        for name, is_shared in self.shares.items():
            yield "batches", f"{name}: {'requests share its calls' if is_shared else 'each request by itself'}"
        if self.weights:
            yield "weights", self._weights_text()

    def _weights_text(self) -> str:
        need = MemoryNeed(self.weights)
        text = f"{need.on_device('none') / GB:.1f} GB in bfloat16"
        if len(self.weights) == 1:
            return text
        largest = sorted(self.weights.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in largest)
        return f"{text} ({parts}); {need.on_device('model') / GB:.1f} GB with load.offload: model"


@cache
def survey_results() -> dict[str, dict[str, Any]]:
    """The results of the survey, by class."""
    results: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "model_survey.json").read_text())
    return results


def model_info(model: str) -> ModelInfo:
    """What is known about a class, a folder or a model on the hub. Raises UnknownModel or HubError."""
    model = with_hub_prefix(model)
    index = model_index(model)
    return _class_info(model, index.kind).model_copy(update={"weights": _weights(model, index)})


def with_hub_prefix(model: str) -> str:
    """`org/name` as hf://org/name, as in every other command, unless it is a folder."""
    return HUB_PREFIX + model if HUB_NAME.fullmatch(model) and not Path(model).is_dir() else model


def _weights(model: str, index: ModelIndex) -> dict[str, float]:
    if model.startswith(HUB_PREFIX):
        weights = weights_on_hub(model.removeprefix(HUB_PREFIX))
    else:
        weights = weights_in_folder(Path(model)) if Path(model).is_dir() else {}
    elsewhere = {name: component for name, component in index.components.items() if name not in weights}
    return weights | weights_elsewhere(elsewhere, model.removeprefix(HUB_PREFIX))


def _class_info(model: str, name: str) -> ModelInfo:
    if entry := survey_results().get(name):
        step_models = " + ".join(entry["shares"]) or "denoise"
        phases = ["encode", f"({step_models} → step) × steps", "decode"] if entry["steps"] else ["the whole of it"]
        return ModelInfo(model=model, pipeline=name, phases=phases, **entry)
    if name.endswith(("ForCausalLM", "ForConditionalGeneration")):
        return ModelInfo(model=model, pipeline=name, task="text", steps=True, phases=["prefill", "(decode) × tokens"])
    if name == model and not name.endswith("Pipeline"):
        raise UnknownModel(f"{model!r} is not a model; give a class like FluxPipeline, a folder, or hf://org/name")
    return ModelInfo(model=model, pipeline=name, alike=difflib.get_close_matches(name, survey_results()))


def model_index(model: str) -> ModelIndex:
    """The index of a model. Of a text that names no folder and no model of the hub, it says that this is the class.

    Raises UnknownModel or HubError.
    """
    if model in BUILTIN_CLASSES:
        return ModelIndex(BUILTIN_CLASSES[model], {}, {})
    if model.startswith(HUB_PREFIX):
        name = model.removeprefix(HUB_PREFIX)
        if name.count("/") != 1 or not all(name.split("/")):
            raise UnknownModel(f"{model}: a model on the hub is named hf://org/name")
        return _first_index(model, (read_hub_file(name, index) for index in INDEX_FILES))
    if Path(model).is_dir():
        files = [Path(model) / index for index in INDEX_FILES]
        return _first_index(model, (file.read_text() if file.is_file() else None for file in files))
    return ModelIndex(model, {}, {})


def _first_index(model: str, index_files: Iterable[str | None]) -> ModelIndex:
    """The first of these files that names a class. Raises UnknownModel if none does."""
    for text in index_files:
        with contextlib.suppress(ValueError):
            return parse_model_index(text or "{}")
    raise UnknownModel(f"{model}: neither {' nor '.join(INDEX_FILES)} names a class")
