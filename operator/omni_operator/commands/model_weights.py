"""How much memory the weights of a model take: of a folder, or on the hub, of which only headers are read."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omni_operator.commands.hub_files import HubError, list_hub_files, read_hub_header
from omni_settings.load import LoadSettings
from omni_settings.model_index import Component
from omni_settings.model_size import LENGTH_BYTES, WEIGHTS_FILE, Weights, header_length, memory_need, weights_of

DTYPE = "bfloat16"
"""In which the weights are counted: the one that a GPU loads them in by default."""

ReadHeader = Callable[[str, int], bytes]
"""Reads the header of a file from its path and size."""


def weights_in_folder(folder: Path) -> dict[str, float]:
    """Bytes of each component's weights in DTYPE; empty if they cannot be read."""
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*.safetensors")}

    def read(path: str, size: int) -> bytes:
        with (folder / path).open("rb") as file:
            return file.read(header_length(file.read(LENGTH_BYTES)))

    return _bytes_by_component(files, read)


def weights_on_hub(model: str) -> dict[str, float]:
    """Bytes of each component's weights in DTYPE, of the model `org/name`; empty if they cannot be read."""
    with contextlib.suppress(HubError):
        return _bytes_by_component(list_hub_files(model), lambda path, size: read_hub_header(model, path, size))
    return {}


def weights_elsewhere(components: Mapping[str, Component], model: str) -> dict[str, float]:
    """Bytes of the weights of a modular pipeline's components in other repositories than `model`, as far as known."""
    weights: dict[str, float] = {}
    for name, component in components.items():
        repository, revision = component.repository or model, component.revision or "main"
        if repository == model or Path(repository).is_absolute() or repository.count("/") != 1:
            continue
        with contextlib.suppress(HubError):
            folder = component.subfolder or ""
            files = {
                f"{name}/{path.rpartition('/')[2]}": (path, size)
                for path, size in list_hub_files(repository, revision).items()
                if path.rpartition("/")[0] == folder
            }

            def read(path: str, size: int, files: Any = files, at: tuple[str, str] = (repository, revision)) -> bytes:
                return read_hub_header(at[0], files[path][0], size, at[1])

            weights |= _bytes_by_component({path: size for path, (_, size) in files.items()}, read)
    return weights


def _bytes_by_component(files: Mapping[str, int], read_header: ReadHeader) -> dict[str, float]:
    shards: dict[str, dict[str, int]] = {}
    for path, size in sorted(files.items()):
        component, _, name = path.rpartition("/")
        if component.count("/") == 0 and WEIGHTS_FILE.fullmatch(name):
            shards.setdefault(component, {})[path] = size
    weights: dict[str, Weights] = {}
    for component, sizes in shards.items():
        first = next(iter(sizes))
        try:
            weights[component] = weights_of(read_header(first, sizes[first]), sum(sizes.values()))
        except ValueError:
            return {}
    return dict(memory_need(weights, LoadSettings(), DTYPE).components)
