"""Starts `omni` processes by forking one that has imported torch and the rest, once for each process of the tests.

What runs is the same as in a new process, but for the imports. Tests of the imports themselves start new processes.
"""

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from omni_worker.commands.serve import REPLICA_MODULES
from omni_worker.parallel.fork_server import ForkServer

CLI = "omni_worker.commands.cli"
MODULES = (CLI, "omni_worker.commands.head", "omni_worker.commands.headless", *REPLICA_MODULES)
# What may differ from the environment in which the modules were imported, because it is read later.
READ_LATER = {"OMP_NUM_THREADS", "PYTEST_CURRENT_TEST"}


class WarmProcess:
    """A running `omni ARGV`, with the part of subprocess.Popen's interface that the tests use."""

    def __init__(self, server: ForkServer, argv: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> None:
        with open(os.devnull) as nothing:  # noqa: PTH123
            files = (nothing.fileno(), log.fileno(), log.fileno())
            self._status = os.fdopen(server.start(CLI, argv, environment, files), "rb", 0)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._wait_for_end(0)

    def wait(self, seconds: float | None = None) -> int:
        """The exit code, when it has ended. Raises TimeoutExpired."""
        code = self._wait_for_end(seconds)
        if code is None:
            raise subprocess.TimeoutExpired(CLI, seconds or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _wait_for_end(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode


def start(argv: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> WarmProcess | None:
    """Start `omni ARGV`; None if it needs a new process, because no server has imported in this environment yet.

    An environment of its own gets a server the second time, because many are used only once.
    """
    context = (Path.cwd(), *sorted(item for item in environment.items() if item[0] not in READ_LATER))
    if context not in _servers and (not _servers or context in _used_once):
        _servers[context] = ForkServer.spawned(MODULES)
    _used_once.add(context)
    return WarmProcess(_servers[context], argv, environment, log) if context in _servers else None


_servers: dict[tuple[object, ...], ForkServer] = {}
_used_once: set[tuple[object, ...]] = set()
