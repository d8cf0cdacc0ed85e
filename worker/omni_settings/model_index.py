"""Reads the index file of a model: `model_index.json` of diffusers pipelines, `config.json` of transformers models."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INDEX_FILES = ("model_index.json", "config.json")


@dataclass(frozen=True)
class Component:
    """A component of a pipeline: the library and the class that load it.

    The library is a module of the model's own if the component has Python code.
    """

    library: str
    kind: str


@dataclass(frozen=True)
class ModelIndex:
    """What an index file says.

    kind: the class of the pipeline or model
    components: of a pipeline, by name; those that it leaves empty are not here
    code: the Python modules of the model's own that the classes come from, by what needs them
    """

    kind: str
    components: Mapping[str, Component]
    code: Mapping[str, str]


def parse_model_index(content: Any) -> ModelIndex:
    """The index from the content of the file, as JSON text or parsed. Raises ValueError if it names no class."""
    index = json.loads(content) if isinstance(content, str | bytes) else content
    if not isinstance(index, Mapping):
        raise ValueError("it is not a JSON object")
    name, code = index.get("_class_name"), dict[str, str]()
    if isinstance(name, list | tuple) and len(name) == 2:  # a module of the model's own, and the class in it
        code["the pipeline"], name = str(name[0]), name[1]
    architectures = index.get("architectures")
    if name is None and isinstance(architectures, list) and architectures:
        name = architectures[0]
    if not isinstance(name, str):
        raise ValueError("it names no class")
    components = {
        key: Component(entry[0], entry[1])
        for key, entry in index.items()
        if not key.startswith("_")
        and isinstance(entry, list | tuple)
        and len(entry) == 2
        and all(isinstance(part, str) for part in entry)
    }
    return ModelIndex(name, components, code)
