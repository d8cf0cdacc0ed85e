"""Starts the worker processes of an executor: each has its own devices and its share of cores."""

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
from omni_worker.parallel.fork_server import ForkServer
from omni_worker.parallel.forked_popen import ForkedPopen

log = logging.getLogger(__name__)
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
    """What a worker needs to start: its rank and its channel.

    seed: torch's random seed, the same for all ranks
    """

    rank: int
    size: int
    endpoint: str
    seed: int
    runner: RunnerSpec
    log_level: str


@dataclass(frozen=True)
class Files:
    """The descriptors of memory that a worker inherits, in the order of its arguments.

    store: through which the ranks find each other
    """

    broadcast: int
    results: int
    store: int


WorkerProcess = subprocess.Popen[bytes] | ForkedPopen


def start(
    setup: WorkerSetup, files: Files, hash_seed: int, devices: list[str], fork_server: ForkServer | None = None
) -> WorkerProcess:
    """Start a worker. It ends when its stdin closes, which the kernel does if the parent dies."""
    pickled = pickle.dumps(setup)
    environment = _environment(setup, hash_seed, devices)
    process = _start(environment, (files.broadcast, files.results, files.store), fork_server)
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # the executor notices a dead worker by itself
        process.stdin.write(pickled)
        process.stdin.flush()
    return process


def end_of(process: WorkerProcess) -> int:
    """A new descriptor that can be read once the process has ended."""
    return os.dup(process.fileno()) if isinstance(process, ForkedPopen) else os.pidfd_open(process.pid)


def devices_of(size: int) -> list[str]:
    """The GPUs that this process sees, as named in CUDA_VISIBLE_DEVICES; none on a CPU.

    Raises UsageError if there are fewer than `size`.
    """
    count = torch.cuda.device_count()
    if count and count < size:
        raise UsageError(
            f"this replica needs a device for each of its {size} processes, and there are {count}: give it more, or "
            "ask for less (parallelism: --cfg-parallel-size, --ulysses-degree, --ring-degree, --tensor-parallel-size, "
            "--pipeline-parallel-size)"
        )
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name for name in named.split(",") if name][:count] or [str(number) for number in range(count)]


def new_seeds() -> tuple[int, int]:
    """Seeds for torch and for Python's hashes: all ranks must iterate over sets in the same order."""
    return secrets.randbits(63), secrets.randbits(32)


def log_level() -> str:
    """The log level of this process."""
    return logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()


def _start(environment: dict[str, str], inherited: tuple[int, ...], fork_server: ForkServer | None) -> WorkerProcess:
    if fork_server is not None:
        try:
            return ForkedPopen(fork_server, MAIN, (), environment, stdout=2, inherited=inherited)
        except OSError as error:
            log.warning("the fork server has ended (%s); worker processes start without it", error)
    return subprocess.Popen(
        [sys.executable, "-m", MAIN, *map(str, inherited)],
        stdin=subprocess.PIPE,
        stdout=2,  # prints of libraries go to the log
        pass_fds=inherited,
        env=environment,
    )


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
