"""Checks before loading whether a model's weights fit on the device."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from omni_settings.load import LoadSettings
from omni_settings.model_index import Component, ModelIndex
from omni_settings.model_size import (
    LENGTH_BYTES,
    WEIGHTS_FILE,
    MemoryNeed,
    Weights,
    header_length,
    memory_need,
    weights_of,
)
from omni_worker.config.model_source import ComponentPlace, ModelSource
from omni_worker.errors import LoadError

log = logging.getLogger(__name__)


def require_fit(
    source: ModelSource,
    index: ModelIndex,
    settings: LoadSettings,
    unloaded: Collection[str],
    divided: Collection[str] = (),
    degree: int = 1,
) -> None:
    """Raises LoadError with the remedy if the weights are larger than the device. On a CPU nothing is checked.

    divided: the components of which each of `degree` devices has a part
    """
    available = device_memory()
    if available is None:
        return
    loaded = {name: component for name, component in index.components.items() if name not in unloaded}
    whole = memory_need(stored_weights(source, loaded), settings, auto_dtype="bfloat16").components
    need = MemoryNeed({name: size / degree if name in divided else size for name, size in whole.items()})
    if (problem := need.problem(settings, available)) is not None:
        raise LoadError(f"the model {source.text} does not fit: {problem}")


def device_memory() -> float | None:
    """Bytes of memory of the GPU; None on a CPU."""
    return float(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def stored_weights(source: ModelSource, components: Mapping[str, Component]) -> dict[str, Weights]:
    """The weights of components in folders or on the hub. A component whose files cannot be read is left out."""
    found: dict[str, Weights] = {}
    for name, component in components.items():
        place = source.place_of(name, component)
        try:
            weights = _in_folder(place) if place.is_local else _on_hub(place)
        except Exception as error:  # the hub's library passes on any error of the connection; loading reports it
            log.debug("the size of %s is not known: %s", name, error)
            continue
        if weights != Weights():
            found[name] = weights
    return found


def _in_folder(place: ComponentPlace) -> Weights:
    total = Weights()
    for file in (Path(place.location) / place.subfolder).glob("*.safetensors"):
        if WEIGHTS_FILE.fullmatch(file.name):
            with file.open("rb") as opened:
                total += weights_of(opened.read(header_length(opened.read(LENGTH_BYTES))))
    return total


def _on_hub(place: ComponentPlace) -> Weights:
    import huggingface_hub  # it takes long to import

    api = huggingface_hub.HfApi()
    entries = api.list_repo_tree(place.location, place.subfolder or None, revision=place.revision)
    files = [one for one in entries if WEIGHTS_FILE.fullmatch(one.path.rpartition("/")[2])]
    total = Weights()
    for file in files:
        metadata = api.parse_safetensors_file_metadata(place.location, file.path, revision=place.revision)
        tensors = {
            name: {"dtype": tensor.dtype, "data_offsets": tensor.data_offsets}
            for name, tensor in metadata.tensors.items()
        }
        total += weights_of(tensors)
    return total
