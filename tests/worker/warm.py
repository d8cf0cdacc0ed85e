"""Starts Python programs by forking a process that has imported torch and the rest, once for a whole run of tests.

What runs is the same as in a new process, but for the imports. Tests of the imports themselves start new processes.
"""

import functools
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from omni_worker.parallel.fork_server import ForkServer, read_by_imports
from omni_worker.parallel.forked_popen import ForkedPopen
from tests.fork_server_of_run import NAME
from tests.kubernetes.clusters import RUN_FOLDER

from .warm_server import CLI, MODULES

__all__ = ["CLI", "popen", "run", "server_for"]
SET_BY_TORCH = "TORCHINDUCTOR_CACHE_DIR"


def popen(
    module: str, argv: Sequence[str], environment: Mapping[str, str], output: int, errors: int | None = None
) -> ForkedPopen:
    """Start `python -m MODULE ARGV` without input; `errors` go to `output` if they have no file of their own."""
    environment = _without_traces_of_torch(environment)
    with open(os.devnull) as nothing:  # noqa: PTH123
        return ForkedPopen(
            server_for(environment), module, argv, environment,
            stdin=nothing.fileno(), stdout=output, stderr=output if errors is None else errors, folder=str(Path.cwd()),
        )  # fmt: skip


def run(module: str, argv: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGV` to its end; in a new process if its environment differs from that of the run."""
    environment = _without_traces_of_torch(environment)
    if _context(environment) != _CONTEXT_OF_RUN:
        command = [sys.executable, "-m", module, *argv]
        return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = popen(module, argv, environment, output.fileno(), errors.fileno())
        code = process.wait()
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(process.args, code, output.read(), errors.read())


def server_for(environment: Mapping[str, str]) -> ForkServer:
    """The server of the run; one with this environment, if it is asked for the second time and differs.

    The server of the run starts new processes for an environment that differs: many are used only once.
    """
    context = _context(environment)
    _uses[context] = _uses.get(context, 0) + 1
    if context == _CONTEXT_OF_RUN or _uses[context] == 1:
        return _server_of_run()
    if context not in _servers:
        _servers[context] = ForkServer.spawned(MODULES, environment)
    return _servers[context]


@functools.cache
def _server_of_run() -> ForkServer:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(f"{os.environ[RUN_FOLDER]}/{NAME}")
    return ForkServer(connection)


def _without_traces_of_torch(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Without the variable that torch sets in the process of the tests when it compiles something."""
    is_set_by_torch = SET_BY_TORCH not in _ENVIRONMENT and environment.get(SET_BY_TORCH) == os.environ.get(SET_BY_TORCH)
    return {name: value for name, value in environment.items() if name != SET_BY_TORCH or not is_set_by_torch}


def _context(environment: Mapping[str, str]) -> tuple[object, ...]:
    return environment.get("PYTHONPATH"), *sorted(read_by_imports(environment).items())


_ENVIRONMENT = dict(
    one.split("=", 1)
    for one in Path("/proc/self/environ").read_text(errors="surrogateescape").split("\0")
    if "=" in one
)
"""The environment of the run: that with which this process began. Imports of torch change it."""
_CONTEXT_OF_RUN = _context(_ENVIRONMENT)
_uses: dict[tuple[object, ...], int] = {}
_servers: dict[tuple[object, ...], ForkServer] = {}
