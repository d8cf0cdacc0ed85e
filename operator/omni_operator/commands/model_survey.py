"""What is known of a model before it is served: its class, whether that steps, and in which phases.

Classes of diffusers were tried by `make survey`, which wrote `model_survey.json`.
"""

import difflib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from omni_operator.commands import hub_files

HF = "hf://"
BUILTIN = {"builtin://digits": "QwenImagePipeline"}
INDEXES = ("model_index.json", "config.json")


class UnknownModel(Exception):
    """Nothing is known of it; the message says why."""

    exit_code = 1


class Known(BaseModel):
    """`steps`: whether it runs step by step, None if nobody tried, and then `alike`: what was tried of similar names;
    `shares`: whether the models that it calls in every step run several requests as one."""

    model: str
    pipeline: str
    family: str | None = None
    task: str | None = None
    steps: bool | None = None
    phases: list[str] = []
    alike: list[str] = []
    shares: dict[str, bool] = {}

    def lines(self) -> Iterator[tuple[str, str]]:
        """Names and values, for people."""
        yield "class", self.pipeline
        if self.family:
            yield "family", f"{self.family}, {self.task}"
        elif self.task:
            yield "task", self.task
        untried = f"not tried; tried were {', '.join(self.alike)}" if self.alike else "not tried"
        yield "steps", {True: "yes", False: "no: it runs in request mode", None: untried}[self.steps]
        if self.phases:
            yield "phases", " → ".join(self.phases)
        for name, is_shared in self.shares.items():
            yield "batches", f"{name}: {'requests share its calls' if is_shared else 'each request by itself'}"


@cache
def surveyed() -> dict[str, dict[str, Any]]:
    """What the survey found, by class."""
    found: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "model_survey.json").read_text())
    return found


def known(model: str) -> Known:
    """What is known of a class, a folder or a model of the hub. Raises UnknownModel, HubError."""
    name = class_of(model)
    if entry := surveyed().get(name):
        loop = " + ".join(entry["shares"]) or "denoise"
        phases = ["encode", f"({loop} → step) × steps", "decode"] if entry["steps"] else ["the whole of it"]
        return Known(model=model, pipeline=name, phases=phases, **entry)
    if name.endswith(("ForCausalLM", "ForConditionalGeneration")):
        return Known(model=model, pipeline=name, task="text", steps=True, phases=["prefill", "(decode) × tokens"])
    if name == model and not name.endswith("Pipeline"):
        raise UnknownModel(f"{model!r} is not a model; give a class like FluxPipeline, a folder, or hf://org/name")
    return Known(model=model, pipeline=name, alike=difflib.get_close_matches(name, surveyed()))


def class_of(model: str) -> str:
    """The class that a model's index names. Raises UnknownModel, HubError."""
    if model in BUILTIN:
        return BUILTIN[model]
    if model.startswith(HF):
        name = model.removeprefix(HF)
        if name.count("/") != 1 or not all(name.split("/")):
            raise UnknownModel(f"{model}: a model on the hub is named hf://org/name")
        return _named(model, (hub_files.read(name, index) for index in INDEXES))
    if Path(model).is_dir():
        files = [Path(model) / index for index in INDEXES]
        return _named(model, (file.read_text() if file.is_file() else None for file in files))
    return model


def _named(model: str, indexes: Iterable[str | None]) -> str:
    for text in indexes:
        try:
            index = json.loads(text or "{}")
            names = [index.get("_class_name"), *(index.get("architectures") or [])]
        except (ValueError, AttributeError, TypeError):
            continue
        for name in names:
            if isinstance(name, str):
                return name
    raise UnknownModel(f"{model}: neither {' nor '.join(INDEXES)} names a class")
