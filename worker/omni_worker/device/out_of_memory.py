"""Recognizes out-of-memory errors of the device and of the host, and frees what the failed work still holds."""

import traceback

import torch

from omni_worker.errors import without_frames

# Of the host's allocator, of CUDA's runtime, and of libraries that allocate for themselves.
MESSAGES = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means too little memory. Only some come as an OutOfMemoryError; others are RuntimeErrors."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


def free_failed_work(error: Exception) -> None:
    """Free the tensors that the frames of an error still hold, and give the device's cached memory back.

    Work that is retried inside an `except` block, or while anything holds the error, shares the memory with what has
    failed. So leave the block first. Frames are cleared too, because one that holds its error is a cycle.
    """
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        if (one := chain.pop()) is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            chain += [one.__cause__, one.__context__]
    without_frames(error)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
