"""Loads a pipeline's denoisers with their weights divided over ranks, by the plans of diffusers for their classes.

A rank reads only its own part of each divided weight from the files, so no rank ever holds the whole model.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from diffusers.hooks import tensor_parallel
from torch.distributed.device_mesh import init_device_mesh

from omni_settings.load import LoadSettings
from omni_settings.model_index import ModelIndex
from omni_settings.parallelism import ModelParallelism
from omni_worker.errors import LoadError
from omni_worker.parallel.ranks import Ranks, counting_cpus

AXES = ("cfg", "tensor")


def divisible_kinds(
    index: ModelIndex, unloaded: Collection[str], settings: LoadSettings, parallelism: ModelParallelism
) -> dict[str, Any]:
    """The classes of the components whose weights are divided, by the components' names.

    Raises LoadError if there is none although weights are to be divided, or if one is quantized.
    """
    if parallelism.tensor == 1:
        return {}
    setting = f"--tensor-parallel-size {parallelism.tensor} (parallelism.tensor)"
    kinds = {
        name: getattr(diffusers, component.kind, None)
        for name, component in index.components.items()
        if component.library == "diffusers" and name not in unloaded
    }
    found = {name: kind for name, kind in kinds.items() if getattr(kind, "_tp_plan", None) is not None}
    if not found:
        raise LoadError(
            f"{setting}: diffusers has no plan to divide the weights of {index.kind}: remove it; to make "
            "a model fit on one device, set load.quantization or load.offload"
        )
    for name in found:
        if name in settings.quantization:
            raise LoadError(f"{setting}: load.quantization of {name}: quantized weights cannot be divided; remove one")
    return found


def load_divided(
    kinds: Mapping[str, Any],
    parallelism: ModelParallelism,
    ranks: Ranks,
    device: str,
    load: Callable[..., Any],
) -> dict[str, Any]:
    """Load components with this rank's part of their weights. All ranks must call this.

    load: calls `from_pretrained` of a component's class, given its name, the class, and more arguments

    Raises LoadError if a component's weights cannot be divided among so many ranks.
    """
    mesh = init_device_mesh(device, (ranks.size // parallelism.tensor, parallelism.tensor), mesh_dim_names=AXES)
    config = diffusers.TensorParallelConfig(mesh=mesh[AXES[-1]])
    loaded = {}
    with counting_cpus(), _dividing_on_cpus():
        for name, kind in kinds.items():
            try:
                loaded[name] = load(name, kind, parallel_config=config)
            except ValueError as error:
                raise LoadError(
                    f"--tensor-parallel-size {parallelism.tensor} (parallelism.tensor): {kind.__name__}: {error}"
                ) from error
    return loaded


@contextmanager
def _dividing_on_cpus() -> Iterator[None]:
    """Let diffusers divide weights on CPUs, where torch can, too."""
    supported = tensor_parallel._SUPPORTED_TP_DEVICES
    tensor_parallel._SUPPORTED_TP_DEVICES = (*supported, torch.device("cpu").type)
    try:
        yield
    finally:
        tensor_parallel._SUPPORTED_TP_DEVICES = supported
