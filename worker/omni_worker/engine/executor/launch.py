"""Starts the worker processes of an executor: each has an interpreter, its own devices and its share of cores."""

import logging
import os
import pickle
import secrets
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from omni_worker.errors import UsageError
from omni_worker.parallel.child_process import safe_path

MAIN = "omni_worker.engine.executor.worker"


@dataclass(frozen=True)
class RunnerSpec:
    """How a worker builds its runner: `factory` names a function as `module:function`.

    Every worker calls `factory(ranks, *args)`. It returns the runner, and a card for the executor's owner
    (`MultiprocExecutor.card`). The arguments are pickled.
    """

    factory: str
    args: tuple[Any, ...] = ()


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to start: its rank, its channel, and the descriptors that it inherits.

    store: a memory file through which the ranks find each other
    seed: torch's random seed, the same for all ranks
    """

    rank: int
    size: int
    endpoint: str
    broadcast: int
    results: int
    store: int
    seed: int
    runner: RunnerSpec
    log_level: str


def start(setup: WorkerSetup, hash_seed: int, devices: list[str]) -> subprocess.Popen[bytes]:
    """Start a worker. It ends when its stdin closes, which the kernel does if the parent dies."""
    pickled = pickle.dumps(setup)
    process = subprocess.Popen(
        [sys.executable, "-m", MAIN],
        stdin=subprocess.PIPE,
        stdout=2,  # prints of libraries go to the log
        pass_fds=(setup.broadcast, setup.results, setup.store),
        env=_environment(setup, hash_seed, devices),
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # the executor notices a dead worker by itself
        process.stdin.write(pickled)
        process.stdin.flush()
    return process


def devices_of(size: int) -> list[str]:
    """The GPUs that this process sees, as named in CUDA_VISIBLE_DEVICES; none on a CPU.

    Raises UsageError if there are fewer than `size`.
    """
    count = torch.cuda.device_count()
    if count and count < size:
        raise UsageError(
            f"--cfg-parallel-size or --pipeline-parallel-size {size} needs a device for each of its {size} processes, "
            f"and there are {count}: give the replica more, or ask for less"
        )
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name for name in named.split(",") if name][:count] or [str(number) for number in range(count)]


def new_seeds() -> tuple[int, int]:
    """Seeds for torch and for Python's hashes: all ranks must iterate over sets in the same order."""
    return secrets.randbits(63), secrets.randbits(32)


def log_level() -> str:
    """The log level of this process."""
    return logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()


def _environment(setup: WorkerSetup, hash_seed: int, devices: list[str]) -> dict[str, str]:
    share = len(devices) // setup.size
    cores = int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or len(os.sched_getaffinity(0)))
    changes = {
        **safe_path({"PYTHONPATH": os.pathsep.join(sys.path)}),
        "PYTHONHASHSEED": str(hash_seed),
        "OMP_NUM_THREADS": str(max(1, cores // setup.size)),
        "GLOO_SOCKET_IFNAME": "lo",  # all ranks are on this host
    }
    if share:
        changes["CUDA_VISIBLE_DEVICES"] = ",".join(devices[setup.rank * share : (setup.rank + 1) * share])
    return {**os.environ, **changes}
