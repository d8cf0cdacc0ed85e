"""From the settings of a stage and the index of a model to the arguments of `from_pretrained`.

It decides dtypes, quantization, the models that are not loaded, and whose Python code may run. It loads no weights,
except those of GGUF files.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.utils.dynamic_modules_utils import get_class_from_dynamic_module

from omni_settings.load import LoadSettings
from omni_settings.model_index import ModelIndex
from omni_worker.config.model_source import ModelSource
from omni_worker.device.dtypes import weights_dtype
from omni_worker.errors import LoadError
from omni_worker.pipelines.quantization import gguf_components, quantization_config

DEFAULT = "default"
"""What `from_pretrained` calls the components without a dtype of their own."""
SAFE_WEIGHTS = {"use_safetensors": True}
"""Pickled weights contain code, and are not loaded even if a model's Python files are trusted."""
LIBRARIES = ("diffusers", "transformers", "onnxruntime.training")


class PipelineParts(Enum):
    """Which models of a pipeline are loaded. If two stages share a pipeline, each loads only its own models."""

    ALL = auto()
    TEXT_ENCODERS = auto()
    ALL_BUT_TEXT_ENCODERS = auto()


def component_dtypes(settings: LoadSettings, index: ModelIndex, device: str) -> dict[str, torch.dtype]:
    """The dtype of each component that has its own, and of all others as DEFAULT, as `from_pretrained` takes them.

    Raises LoadError if the pipeline has no such component.
    """
    dtypes = {DEFAULT: settings.dtype, **settings.component_dtypes}
    _require_components("load.componentDtypes", settings.component_dtypes, index)
    return {name: weights_dtype(dtype, device) for name, dtype in dtypes.items()}


def quantized_components(
    settings: LoadSettings,
    source: ModelSource,
    index: ModelIndex,
    dtypes: Mapping[str, torch.dtype],
    unloaded: Collection[str],
) -> dict[str, Any]:
    """The arguments that quantize components, except those that are not loaded here. Raises LoadError."""
    _require_components("load.quantization", settings.quantization, index)
    loaded = {name: one for name, one in settings.quantization.items() if name not in unloaded}
    settings = settings.model_copy(update={"quantization": loaded})
    config = quantization_config(settings, index)
    return {
        **({"quantization_config": config} if config else {}),
        **gguf_components(settings, source, index, dtypes),
    }


def code_arguments(settings: LoadSettings, source: ModelSource, index: ModelIndex) -> dict[str, Any]:
    """The arguments that say whose Python code may run. Raises LoadError if the model has code that is not trusted."""
    if index.is_modular and settings.custom_pipeline is not None:
        raise LoadError(f"load.customPipeline: {index.kind} is modular: its blocks come from its modular_config.json")
    code = dict(index.code)
    for name, component in index.components.items():
        if component.library not in LIBRARIES and not hasattr(diffusers.pipelines, component.library):
            code[name] = component.library
    if code and not settings.trust_remote_code:
        needed = " and ".join(f"{module}.py for {name}" for name, module in code.items())
        raise LoadError(
            f"{source.text} contains Python code, {needed}, which runs with the rights of the replica: "
            "set load.trustRemoteCode: true (--trust-remote-code) if you trust its author"
        )
    custom = {}
    if (file := settings.custom_pipeline) is not None:
        _require_pipeline_class(source, file)
        custom = {"custom_pipeline": file.removesuffix(".py")}
    return {"trust_remote_code": settings.trust_remote_code, **SAFE_WEIGHTS, **custom}


def _require_pipeline_class(source: ModelSource, file: str) -> None:
    """Import the file of a custom pipeline, which is trusted. Raises LoadError if it has no pipeline class."""
    where = f"load.customPipeline (--custom-pipeline): {file} of {source.text}"
    if source.is_local and not (Path(source.location) / file).is_file():
        there = ", ".join(sorted(path.name for path in Path(source.location).glob("*.py"))) or "none"
        raise LoadError(f"{where} does not exist; the model's Python files are: {there}")
    at = {"revision": source.revision, "local_files_only": source.is_local}
    try:
        found = get_class_from_dynamic_module(source.location, file, trust_remote_code=True, **at)
    except Exception as error:  # the file may raise anything
        raise LoadError(f"{where} cannot be used: {type(error).__name__}: {error}") from error
    if found is None:
        raise LoadError(f"{where} defines no class that inherits from a pipeline of diffusers")


def unloaded_models(source: ModelSource, index: ModelIndex, parts: PipelineParts) -> dict[str, Callable[..., Any]]:
    """The models that `parts` does not include, each with a function that reads its configuration.

    Raises LoadError if the pipeline cannot be divided.
    """
    if index.is_modular and parts is not PipelineParts.ALL:
        raise LoadError(
            f"{index.kind} of {source.text} is modular, and cannot be divided into stages: give it a single stage"
        )
    found: dict[str, Callable[..., Any]] = {}
    for name, component in index.components.items():
        if parts is PipelineParts.ALL_BUT_TEXT_ENCODERS and name.startswith("text_encoder"):
            found[name] = _transformers_config
        elif parts is PipelineParts.TEXT_ENCODERS and component.library == "diffusers":
            kind = getattr(diffusers, component.kind, None)
            load_config = getattr(kind, "load_config", None)
            if load_config is not None and not issubclass(kind, diffusers.SchedulerMixin):  # type: ignore[arg-type]
                found[name] = load_config
    return found


def _require_components(setting: str, names: Iterable[str], index: ModelIndex) -> None:
    """Raises LoadError if a setting names a component that the pipeline does not have."""
    for name in names:
        if name not in index.components:
            known = ", ".join(index.components)
            raise LoadError(f"{setting}: there is no component {name!r}; this pipeline has {known}")


def _transformers_config(location: str, **at: Any) -> dict[str, Any]:
    config, _ = transformers.PretrainedConfig.get_config_dict(location, **at)
    return dict(config)
