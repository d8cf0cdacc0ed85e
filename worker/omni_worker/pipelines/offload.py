"""Places a pipeline's models on the device: all of them, or only what works now, with the rest in host memory.

`model` keeps one component on the device at a time. diffusers' own model offload assumes that the components run in one
order, once; with several requests at a time, a component that runs out of turn would stay beside the others.
`sequential` and `group` are the group offloading of diffusers, which moves layers during each call: `group` copies the
next layers while the current ones work, where the device has streams, and `sequential` holds one layer at a time.
"""

from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device

from omni_settings.load import Offload
from omni_worker.pipelines.components import models


def place(pipe: Any, device: str, offload: Offload) -> "ComponentOffload | None":
    """Put the models of a pipeline where `offload` says; returns what moves components, if components move."""
    onload = torch.device(device)
    if offload == "model":
        return ComponentOffload(pipe, onload)
    if offload == "none":
        pipe.to(device)
    else:
        prefetches = offload == "group" and onload.type == "cuda"
        pipe.enable_group_offload(onload_device=onload, offload_type="leaf_level", use_stream=prefetches)
    return None


class ComponentOffload:
    """Keeps one component of a pipeline on the device, and the others in host memory.

    A component is moved when it is called. The components that a pipeline excludes from offloading stay on the device.

    moves: how many components were moved to the device so far
    """

    def __init__(self, pipe: Any, device: torch.device) -> None:
        self.device = device
        self.moves = 0
        self._current: torch.nn.Module | None = None
        self._names: set[str] = set()
        for name, model in models(pipe).items():
            if name in getattr(pipe, "_exclude_from_cpu_offload", ()):
                model.to(device)
            else:
                self._names.add(name)
                add_hook_to_module(model.to("cpu"), _MoveWhenCalled(self))

    def component_of(self, method: str) -> str | None:
        """The component that a call needs, by the call's model or method; None if it is always on the device."""
        return next((name for name in (method, method.rpartition(".")[0]) if name in self._names), None)

    def use(self, model: torch.nn.Module) -> None:
        """Move a model to the device, after the one that is there has left it."""
        if model is self._current:
            return
        if self._current is not None:
            self._current.to("cpu")
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        self._current = model.to(self.device)
        self.moves += 1


class _MoveWhenCalled(ModelHook):  # type: ignore[misc]
    """diffusers calls it before a model's `forward`, `encode` and `decode`, and reads the pipeline's device from it."""

    def __init__(self, offload: ComponentOffload) -> None:
        self._offload = offload
        self.execution_device = offload.device

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._offload.use(module)
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)
