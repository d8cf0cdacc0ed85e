"""Out-of-memory errors: which ones there are, and what they leave in memory."""

import gc
import weakref

import pytest
import torch

from omni_worker.device.out_of_memory import free_failed_work, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("the prompt says: out of memory"), False),
    ],
)
def test_errors_of_every_allocator_are_recognized(error, expected):
    assert is_out_of_memory(error) is expected


def fails(held):
    activations = torch.empty(1000)
    held.append(weakref.ref(activations))
    raise torch.OutOfMemoryError("no room")


def wraps(held):
    try:
        fails(held)
    except torch.OutOfMemoryError as error:
        remembered = error  # a cycle: the error holds this frame, which holds the error
        raise RuntimeError("out of memory") from remembered


@pytest.mark.parametrize("function", [fails, wraps])
def test_what_a_failed_call_held_is_freed_at_once_though_somebody_keeps_the_error(function):
    held = []
    gc.disable()
    try:
        try:
            function(held)
        except Exception as error:
            kept = error
        assert held[0]() is not None
        free_failed_work(kept)
        assert held[0]() is None
    finally:
        gc.enable()
