"""Makes a loaded pipeline faster with equal results: shorter convolutions for single frames, and compilation."""

import types
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor

from omni_worker.pipelines.components import denoisers, models

CAUSAL_CONVOLUTIONS = (QwenImageCausalConv3d, WanCausalConv3d)


def shorten_single_frames(model: torch.nn.Module) -> int:
    """Run the causal 3-D convolutions of a video autoencoder as 2-D ones for single frames. Returns how many there are.

    Over one frame with nothing before it, a causal convolution multiplies zeros for every frame except the last. A 2-D
    convolution with the kernel's last slice gives the same result up to rounding, in less than half the time.
    """
    convolutions = [layer for layer in model.modules() if isinstance(layer, CAUSAL_CONVOLUTIONS)]
    for layer in convolutions:
        vars(layer)["forward"] = types.MethodType(_short_forward, layer)
    return len(convolutions)


def _short_forward(self: Any, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
    width, _, height, _, before, _ = self._padding
    if cache_x is not None or x.shape[2] != 1 or self.stride[0] != 1 or before != self.kernel_size[0] - 1:
        return type(self).forward(self, x, cache_x)
    kernel = self.weight[:, :, -1]
    return F.conv2d(x[:, :, 0], kernel, self.bias, self.stride[1:], (height, width)).unsqueeze(2)


def compile_denoisers(pipe: Any, backend: str = "inductor") -> list[str]:
    """Let torch compile the models that run in each step, at their first call. Returns their names.

    Each batch size is compiled separately, so use it with few batch sizes (the buckets of `ProvenBatches`).
    """
    names = denoisers(pipe)
    for name, model in models(pipe).items():
        if name in names:
            vars(model)["forward"] = torch.compile(model.forward, backend=backend, dynamic=False)
    return names
