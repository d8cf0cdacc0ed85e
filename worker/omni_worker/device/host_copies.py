"""Copies tensors between a GPU and the host through page-locked memory.

The device reads and writes page-locked memory itself, at the full speed of the bus. Pageable memory needs one more
copy. torch keeps page-locked memory and reuses it.
"""

import torch
from torch import Tensor


def to_host(tensor: Tensor) -> Tensor:
    """The tensor on the CPU; the same tensor if it is there already."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host, on `device`. Work that is submitted to the device afterwards sees the complete copy."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
