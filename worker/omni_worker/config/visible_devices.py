"""Which GPUs a process may use, found without loading torch: a supervisor only divides them among its replicas.

A device plugin names a container's GPUs in NVIDIA_VISIBLE_DEVICES, or only adds their device files. It never sets
CUDA_VISIBLE_DEVICES, so without a share of its own every replica would load its model onto the first GPU.
"""

from collections.abc import Mapping
from pathlib import Path

NO_LIST = ("all", "none", "void")
"""Values of NVIDIA_VISIBLE_DEVICES that name no device."""
DEV = Path("/dev")


def visible_devices(environment: Mapping[str, str], dev: Path = DEV) -> tuple[str, ...]:
    """The GPUs, as CUDA_VISIBLE_DEVICES would name them: their own names, or their numbers in this container."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        return names(environment["CUDA_VISIBLE_DEVICES"])
    listed = tuple(name for name in names(environment.get("NVIDIA_VISIBLE_DEVICES", "")) if name not in NO_LIST)
    if any(name.startswith("MIG-") for name in listed):
        return listed  # several parts of a GPU share one device file, and CUDA numbers only one part
    files = [file for file in dev.glob("nvidia[0-9]*") if file.name.removeprefix("nvidia").isdigit()]
    if (dev / "kfd").exists():  # ROCm
        files += dev.glob("dri/renderD*")
    return tuple(map(str, range(len(files) or len(listed))))


def names(listed: str) -> tuple[str, ...]:
    return tuple(name for part in listed.split(",") if (name := part.strip()))
