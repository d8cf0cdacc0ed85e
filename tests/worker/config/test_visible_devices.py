"""Which GPUs a process finds, by what device plugins and people set."""

from pathlib import Path

import pytest

from omni_worker.config.visible_devices import visible_devices

GPUS = ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm")
# name: (the environment, the device files, the GPUs)
CASES: dict[str, tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]] = {
    "none": ({}, (), ()),
    "named for CUDA": ({"CUDA_VISIBLE_DEVICES": "3, GPU-a"}, GPUS, ("3", "GPU-a")),
    "hidden from CUDA": ({"CUDA_VISIBLE_DEVICES": ""}, GPUS, ()),
    "named by a device plugin": ({"NVIDIA_VISIBLE_DEVICES": "GPU-aaaa,GPU-bbbb"}, (), ("0", "1")),
    "named by numbers of the node": ({"NVIDIA_VISIBLE_DEVICES": "5,6"}, GPUS, ("0", "1")),
    "parts of a GPU": ({"NVIDIA_VISIBLE_DEVICES": "MIG-a,MIG-b"}, GPUS, ("MIG-a", "MIG-b")),
    "all of the machine": ({"NVIDIA_VISIBLE_DEVICES": "all"}, GPUS, ("0", "1")),
    "added as files (CDI)": ({"NVIDIA_VISIBLE_DEVICES": "void"}, GPUS, ("0", "1")),
    "on a machine": ({}, GPUS, ("0", "1")),
    "more than ten": ({}, tuple(f"nvidia{number}" for number in range(12)), tuple(map(str, range(12)))),
    "of AMD": ({}, ("kfd", "dri/renderD128", "dri/renderD129", "dri/card0"), ("0", "1")),
    "a screen": ({}, ("dri/renderD128",), ()),
}


@pytest.mark.parametrize("row", CASES)
def test_devices(tmp_path: Path, row: str) -> None:
    environment, files, expected = CASES[row]
    for name in files:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    assert visible_devices(environment, tmp_path) == expected
