"""Recognizes errors after which a process can no longer use its device, and checks whether a device still computes.

A CUDA error such as a failed assertion in a kernel or an illegal access breaks the process's context: every later call
fails too, and only a new process helps.
"""

import re

BROKEN_CONTEXT = re.compile(
    r"(\w+Error: )?((CUDA|HIP)( driver)? error: .*?("
    r"device-side assert|illegal memory access|illegal instruction|illegal address|misaligned address"
    r"|invalid address space|invalid program counter|hardware stack error|launch failure|launch timed out"
    r"|uncorrectable|GPU is lost|context is destroyed|unknown error|driver shutting down"
    r"|CU\w+_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR))"
    r"|cuDNN error: CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR))",
    re.IGNORECASE,
)
TORCH_ERRORS = ("RuntimeError", "AcceleratorError")
MAX_CAUSES = 10
EXPECTED_SUM = 3 * 1023 * 512


class DeviceFailed(Exception):
    """The device of this process is broken; only a new process can use it again."""


def breaks_device(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that the device's context is broken.

    Only the types that torch raises count, and only if the message starts that way: other errors may quote a client.
    """
    for _ in range(MAX_CAUSES):
        if error is None:
            break
        if type(error).__name__ in TORCH_ERRORS and BROKEN_CONTEXT.match(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_device() -> None:
    """Compute something on the device. Raises DeviceFailed if that fails or gives a wrong result.

    After an error that broke the context every call fails, so this finds the errors that `breaks_device` does not know.
    Too little memory proves nothing.
    """
    import torch  # not at the top: the engine imports this module, and needs no torch itself

    from omni_worker.device.out_of_memory import is_out_of_memory

    try:
        numbers = torch.arange(1024, device="cuda" if torch.cuda.is_available() else "cpu")
        total = int((numbers * 3).sum().item())
    except Exception as error:
        if is_out_of_memory(error):
            return
        raise DeviceFailed(f"the device fails every computation: {error}") from error
    if total != EXPECTED_SUM:
        raise DeviceFailed(f"the device computes wrong results: {total} instead of {EXPECTED_SUM}")
