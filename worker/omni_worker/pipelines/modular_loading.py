"""Loads diffusers' modular pipelines: the blocks first, then each component from where the index says that it is.

`load_components` of diffusers logs what it cannot load and continues without it. Here a component that cannot be loaded
is an error that names it, and no component's code runs unless the model is trusted.
"""

from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from omni_settings.model_index import Component, ModelIndex
from omni_worker.config.model_source import ModelSource
from omni_worker.errors import LoadError
from omni_worker.pipelines.load_arguments import DEFAULT, SAFE_WEIGHTS
from omni_worker.pipelines.modular import as_pipeline


def code_of_blocks(source: ModelSource, **at: Any) -> dict[str, str]:
    """The Python module of the model's own that its blocks come from; empty if they are diffusers' own."""
    try:
        config = diffusers.ModularPipelineBlocks.load_config(source.location, **at)
    except OSError:  # it has no such file
        return {}
    reference = config.get("auto_map", {}).get("ModularPipelineBlocks")
    return {"the blocks": str(reference).partition(".")[0]} if reference else {}


def load_modular(
    source: ModelSource,
    index: ModelIndex,
    dtypes: Mapping[str, torch.dtype],
    quantized: Mapping[str, Any],
    trust_remote_code: bool,
    **at: Any,
) -> Any:
    """The pipeline with all its components, in the form of a classic one.

    quantized: the arguments of `quantized_components`, and other components that are loaded already, by name

    Raises LoadError, naming the component that cannot be loaded.
    """
    pipe = diffusers.ModularPipeline.from_pretrained(source.location, trust_remote_code=trust_remote_code, **at)
    made = {name: part for name, part in quantized.items() if name in index.components}
    configs = getattr(quantized.get("quantization_config"), "quant_mapping", None) or {}
    for name, component in index.components.items():
        if name in made or name not in pipe.pretrained_component_names:
            continue
        arguments: dict[str, Any] = {"dtype": dtypes.get(name, dtypes[DEFAULT])}
        if name in configs:
            arguments["quantization_config"] = configs[name]
        made[name] = _load_component(pipe, name, component, source, trust_remote_code, arguments)
    pipe.register_components(**made)
    return as_pipeline(pipe)


def _load_component(
    pipe: diffusers.ModularPipeline,
    name: str,
    component: Component,
    source: ModelSource,
    trust_remote_code: bool,
    arguments: dict[str, Any],
) -> Any:
    spec, place = pipe.get_component_spec(name), source.place_of(name, component)
    has_weights = spec.type_hint is None or issubclass(spec.type_hint, torch.nn.Module | diffusers.AutoModel)
    if has_weights:
        arguments |= SAFE_WEIGHTS
    elif "quantization_config" in arguments:
        raise LoadError(f"load.quantization.{name}: {component.kind} has no weights; quantize another component")
    if trust_remote_code and place.location == source.location:
        arguments["trust_remote_code"] = True
    where = {"subfolder": place.subfolder, "revision": place.revision, "local_files_only": place.is_local}
    try:
        return spec.load(pretrained_model_name_or_path=place.location, **where, **arguments)
    except Exception as error:  # diffusers passes on any error of any component
        raise LoadError(f"the component {name} cannot be loaded from {place.location}: {error}") from error
