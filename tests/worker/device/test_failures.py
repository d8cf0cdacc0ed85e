"""Which errors mean that the device is broken, and that no client can produce one."""

import pytest
import torch

from omni_worker.device import failures
from omni_worker.device.failures import DeviceFailed, breaks_device, check_device

BROKEN = (
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: misaligned address",
    "CUDA error: unspecified launch failure",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: hardware stack error",
    "HIP error: an illegal memory access was encountered",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "AcceleratorError: CUDA error: an illegal instruction was encountered",
)


@pytest.mark.parametrize("text", BROKEN)
def test_errors_of_a_broken_context(text):
    assert breaks_device(RuntimeError(text))
    assert breaks_device(torch.AcceleratorError(text))


def test_a_cause_counts_too():
    error = KeyError("x")
    error.__cause__ = RuntimeError(BROKEN[0])
    assert breaks_device(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(BROKEN[0]),
        RuntimeError(f"the prompt {BROKEN[0]!r} is too long"),
        RuntimeError("CUDA error: out of memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: invalid argument"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"),
        None,
    ],
)
def test_errors_of_a_request_do_not(error):
    assert not breaks_device(error)


def test_a_device_that_computes_passes_and_one_that_does_not_fails(monkeypatch):
    check_device()

    def raising(error):
        def arange(*args, **kwargs):
            raise error

        return arange

    monkeypatch.setattr(torch, "arange", raising(RuntimeError("anything")))
    with pytest.raises(DeviceFailed, match="fails every computation: anything"):
        check_device()
    monkeypatch.setattr(torch, "arange", raising(torch.OutOfMemoryError("no room")))
    check_device()
    monkeypatch.undo()
    monkeypatch.setattr(failures, "EXPECTED_SUM", 0)
    with pytest.raises(DeviceFailed, match="wrong results"):
        check_device()
