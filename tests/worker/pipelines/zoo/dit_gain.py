"""Louder weights: what a tiny random denoiser makes of its prompt and its images must be seen in its output."""

from typing import Any

import torch

from . import text

DENOISERS = ("transformer", "unconditional_transformer", "controlnet", "unet")


def amplified(module: torch.nn.Module, gain: float) -> None:
    """Scales matrices and convolutions, and draws those that start as zero; normalisations keep the rest in bounds."""
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05 * gain)
            elif parameter.ndim > 1:
                parameter.mul_(gain)


def assemble(pipeline_class: type, gain: float = 2.0, **components: Any) -> Any:
    """As `text.assemble`, with louder denoisers."""
    for name in DENOISERS:
        if isinstance(components.get(name), torch.nn.Module):
            amplified(components[name], gain)
    return text.assemble(pipeline_class, **components)
