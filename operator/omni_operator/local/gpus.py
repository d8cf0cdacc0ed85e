"""The GPUs of this machine, and which process gets which."""

import os
from collections.abc import Sequence
from pathlib import Path

from omni_operator.planning.topology.records import Process


def visible_gpus() -> list[str]:
    """The ids of the NVIDIA GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device and device != "-1"]
    return sorted((device.name.removeprefix("nvidia") for device in Path("/dev").glob("nvidia[0-9]*")), key=int)


def assign_gpus(processes: Sequence[Process], available: Sequence[str]) -> list[str]:
    """The value of CUDA_VISIBLE_DEVICES for each process.

    Each process gets GPUs of its own while there are enough. After that, processes share them in turn.
    """
    assigned, cursor = [], 0
    for process in processes:
        count = min(process.devices, len(available))
        assigned.append(",".join(available[(cursor + i) % len(available)] for i in range(count)))
        cursor += count
    return assigned
