"""Copies between a GPU and the host, through page-locked memory: there the device reads and writes by itself, at the
full speed of the bus, where pageable memory is first copied once more. torch keeps such memory and gives it out again.
"""

import torch
from torch import Tensor


def to_host(tensor: Tensor) -> Tensor:
    """The tensor on the CPU; itself where it is there."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`; itself where it is there. What runs on the device next sees it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
