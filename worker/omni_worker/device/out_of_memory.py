"""Recognizes out-of-memory errors of the device and of the host."""

import torch


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means too little memory. On the host, torch's allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
