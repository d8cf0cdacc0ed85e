"""Whether an error says that there is too little memory."""

import torch


def is_out_of_memory(error: Exception) -> bool:
    """Of a device, or of the host: there torch's allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
