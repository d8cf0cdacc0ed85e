"""Makes a loaded pipeline faster or smaller: attention, tiles, short convolutions for single frames."""

import types
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor

from omni_settings.load import Vae
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


def set_attention(pipe: Any, backend: str) -> None:
    """Have the denoisers compute attention with a backend of diffusers. Raises ValueError if that is not possible."""
    found = [model for name, model in models(pipe).items() if name in denoisers(pipe)]
    found = [model for model in found if hasattr(model, "set_attention_backend")]
    if not found:
        raise ValueError(f"the denoisers of {type(pipe).__name__} have no attention backends")
    for model in found:
        model.set_attention_backend(backend)


def save_vae_memory(pipe: Any, vae: Vae) -> None:
    """Have the autoencoders work in tiles, or image by image. Raises ValueError if none can."""
    for setting, wanted in vae.model_dump().items():
        methods = [getattr(model, f"enable_{setting}", None) for model in models(pipe).values()]
        able = [method for method in methods if method is not None]
        if wanted and not able:
            raise ValueError(f"no autoencoder of {type(pipe).__name__} has {setting}")
        for enable in able if wanted else ():
            enable()
