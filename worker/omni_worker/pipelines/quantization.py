"""Quantizes components of a pipeline while they are loaded, with the backends of diffusers.

Each component has its own backend. A GGUF component comes from a file of its own, which is quantized already.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import PipelineQuantizationConfig

from omni_settings.load import LoadSettings, Quantization
from omni_settings.model_index import Component, ModelIndex
from omni_worker.config.model_source import ModelSource
from omni_worker.errors import LoadError

LIBRARIES = {
    "torchao": ("torchao", "torchao"),
    "bitsandbytes_4bit": ("bitsandbytes", "bitsandbytes"),
    "bitsandbytes_8bit": ("bitsandbytes", "bitsandbytes"),
    "quanto": ("optimum.quanto", "quanto"),
    "gguf": ("gguf", "gguf"),
    "modelopt": ("modelopt", "modelopt"),
}
"""The module that each backend needs, and the extra of this project that installs it."""
CLASSES = {
    "torchao": ("TorchAoConfig", {}),
    "bitsandbytes_4bit": ("BitsAndBytesConfig", {"load_in_4bit": True}),
    "bitsandbytes_8bit": ("BitsAndBytesConfig", {"load_in_8bit": True}),
    "quanto": ("QuantoConfig", {}),
    "modelopt": ("NVIDIAModelOptConfig", {}),
}
"""The class of each backend's configuration, named alike in diffusers and transformers, and its fixed options."""
NAMING_DTYPES = ("quanto",)
"""The backends whose own names of dtypes are texts, such as int4, and not dtypes of torch."""
FOR_WRAPPER = ("modules_to_not_convert",)
"""The options of torchao that belong to the wrapper of diffusers, and not to torchao's own configuration."""
HUB = "hf://"


def require_libraries(settings: LoadSettings) -> None:
    """Raises LoadError if the library of a backend is not installed. Nothing is loaded or downloaded before."""
    for component, quantization in settings.quantization.items():
        module, extra = LIBRARIES[quantization.backend]
        try:
            is_installed = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # of the package that should contain it
            is_installed = False
        if not is_installed:
            raise LoadError(
                f"load.quantization.{component}: the library of {quantization.backend} is not installed here: "
                f"pip install 'omnipipeline[{extra}]'"
            )


def quantization_config(settings: LoadSettings, index: ModelIndex) -> PipelineQuantizationConfig | None:
    """What `from_pretrained` quantizes while it loads; None if nothing. Raises LoadError, naming the component."""
    configs = {}
    for component, quantization in settings.quantization.items():
        if quantization.backend == "gguf":
            continue
        library = transformers if index.components[component].library == "transformers" else diffusers
        try:
            configs[component] = _config(library, quantization)
        except LoadError:
            raise
        except Exception as error:  # each class checks its options in its own way
            raise LoadError(f"load.quantization.{component}: {error}") from error
    return PipelineQuantizationConfig(quant_mapping=configs) if configs else None


def gguf_components(
    settings: LoadSettings, source: ModelSource, index: ModelIndex, dtypes: Mapping[str, torch.dtype]
) -> dict[str, torch.nn.Module]:
    """The components that come from GGUF files. Raises LoadError, naming the component."""
    return {
        component: _load_gguf(component, quantization, source, index.components[component], dtypes)
        for component, quantization in settings.quantization.items()
        if quantization.backend == "gguf"
    }


def _config(library: Any, quantization: Quantization) -> Any:
    name, fixed = CLASSES[quantization.backend]
    if not hasattr(library, name):
        raise LoadError(f"load.quantization: {quantization.backend} is for components of diffusers only")
    keeps_texts = quantization.backend in NAMING_DTYPES
    options = {key: value if keeps_texts else _dtype_or_same(value) for key, value in quantization.options.items()}
    if quantization.backend == "torchao":
        wrapper = {key: options.pop(key) for key in FOR_WRAPPER if key in options}
        return library.TorchAoConfig(_torchao_class(quantization.type)(**options), **wrapper)
    return getattr(library, name)(**fixed, **options)


def _torchao_class(name: str | None) -> Any:
    import torchao.quantization  # optional, and slow to import

    found = getattr(torchao.quantization, name or "", None)
    if found is None or not isinstance(found, type):
        known = [one for one in dir(torchao.quantization) if one.endswith("Config") and not one.startswith("_")]
        raise ValueError(f"torchao has no configuration {name!r}; choose the type among {', '.join(known)}")
    return found


def _dtype_or_same(value: Any) -> Any:
    found = getattr(torch, value, None) if isinstance(value, str) else None
    return found if isinstance(found, torch.dtype) else value


def _load_gguf(
    component: str, quantization: Quantization, source: ModelSource, entry: Component, dtypes: Mapping[str, torch.dtype]
) -> torch.nn.Module:
    kind: Any = getattr(diffusers, entry.kind, None)
    if not hasattr(kind, "from_single_file"):
        raise LoadError(f"load.quantization.{component}: diffusers reads no GGUF files for {entry.kind}")
    dtype, place = dtypes.get(component, dtypes["default"]), source.place_of(component, entry)
    try:
        model: torch.nn.Module = kind.from_single_file(
            str(_find_gguf(quantization.file or "", source)),
            quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=dtype),
            config=place.location,
            subfolder=place.subfolder,
            config_revision=place.revision,
            local_files_only=place.is_local,
            dtype=dtype,
        )
    except Exception as error:  # a file that is not there or not GGUF, or weights of another model
        raise LoadError(f"load.quantization.{component}: {quantization.file}: {error}") from error
    return model


def _find_gguf(file: str, source: ModelSource) -> Path:
    """The file on this machine, after a download if it is on the hub."""
    if not file.startswith(HUB) and source.is_local:
        return Path(source.location) / file
    import huggingface_hub  # it takes long to import

    if file.startswith(HUB):
        organization, name, path = file.removeprefix(HUB).split("/", 2)
        return Path(huggingface_hub.hf_hub_download(f"{organization}/{name}", path))
    return Path(huggingface_hub.hf_hub_download(source.location, file, revision=source.revision))
