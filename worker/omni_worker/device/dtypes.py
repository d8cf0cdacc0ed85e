"""The dtype of a model's weights, from its name in the configuration."""

import torch


def weights_dtype(name: str, device: str) -> torch.dtype:
    """The dtype for `name`, a `Dtype` of `omni_settings.load`. `auto` means bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype
