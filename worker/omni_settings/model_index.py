"""Reads the index file of a model: of diffusers' pipelines, classic or modular, and of transformers' models."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODULAR_INDEX = "modular_model_index.json"
PIPELINE_INDEXES = ("model_index.json", MODULAR_INDEX)
"""Of pipelines; a model that has both is loaded as a classic pipeline."""
INDEX_FILES = (*PIPELINE_INDEXES, "config.json")


@dataclass(frozen=True)
class Component:
    """A component of a pipeline: the library and the class that load it.

    The library is a module of the model's own if the component has Python code.

    repository: where the component is; None means with the index, in the folder that has the component's name. Only
        modular pipelines name repositories, which may be the index's own
    subfolder, variant, revision: in that repository
    """

    library: str
    kind: str
    repository: str | None = None
    subfolder: str | None = None
    variant: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class ModelIndex:
    """What an index file says.

    kind: the class of the pipeline or model
    components: of a pipeline, by name; those that it leaves empty are not here
    code: the Python modules of the model's own that the classes come from, by what needs them
    is_modular: whether it is a modular pipeline's
    """

    kind: str
    components: Mapping[str, Component]
    code: Mapping[str, str]
    is_modular: bool = False


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
    found = {key: _component(entry) for key, entry in index.items() if not key.startswith("_")}
    components = {key: component for key, component in found.items() if component is not None}
    return ModelIndex(name, components, code, is_modular=name.endswith("ModularPipeline"))


def _component(entry: Any) -> Component | None:
    """A component from its entry: library and class, and of modular pipelines where it is. None for anything else."""
    if not isinstance(entry, list | tuple) or len(entry) not in (2, 3):
        return None
    names, place = entry[:2], dict[str, str | None]()
    if len(entry) == 3:
        if not isinstance(entry[2], Mapping):
            return None
        repository = _text(entry[2], "pretrained_model_name_or_path") or _text(entry[2], "repo")
        if repository is None:  # it has to be given when the pipeline is used
            return None
        place = {key: _text(entry[2], key) for key in ("subfolder", "variant", "revision")}
        place["repository"] = repository
        names = entry[2].get("type_hint") or names  # the library and class at its top say what was last loaded
    is_named = isinstance(names, list | tuple) and len(names) == 2 and all(isinstance(part, str) for part in names)
    return Component(names[0], names[1], **place) if is_named else None


def _text(place: Mapping[str, Any], key: str) -> str | None:
    value = place.get(key)
    return value if isinstance(value, str) and value else None
