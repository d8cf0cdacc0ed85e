"""Faster training of the video autoencoder on pictures.

A causal 3-D convolution over one frame multiplies zeros for every frame but the last; a 2-D convolution with the
kernel's last slice gives the same result (to rounding) in less than half of the time.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders import autoencoder_kl_qwenimage as module

Convolution = module.QwenImageCausalConv3d


@contextmanager
def single_frame_convolutions() -> Iterator[None]:
    """Let Qwen-Image's causal convolutions take the short way for as long as the block runs."""
    original = Convolution.forward

    def forward(self: torch.nn.Conv3d, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        width, _, height, _, before, _ = self._padding
        short = cache_x is None and x.shape[2] == 1 and self.stride[0] == 1 and before == self.kernel_size[0] - 1
        if not short:
            return original(self, x, cache_x)
        kernel = self.weight[:, :, -1]
        return F.conv2d(x[:, :, 0], kernel, self.bias, self.stride[1:], (height, width)).unsqueeze(2)

    Convolution.forward = forward
    try:
        yield
    finally:
        Convolution.forward = original
