"""A process that a fork server has started, as those of `subprocess` are used."""

import os
import select
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import IO, Self

from omni_worker.parallel.fork_server import ForkServer


class ForkedPopen:
    """`python -m MODULE ARGV` as a fork of the server's process: subprocess.Popen, as far as it is used.

    stdin, stdout, stderr: descriptors; subprocess.PIPE as stdin gives the process a pipe that `self.stdin` writes
    inherited: more descriptors for the process; their numbers there follow `argv`
    folder: where it runs; None: where the server does
    """

    def __init__(
        self,
        server: ForkServer,
        module: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        stdin: int = subprocess.PIPE,
        stdout: int = 1,
        stderr: int = 2,
        inherited: Sequence[int] = (),
        folder: str | None = None,
    ) -> None:
        self.args = [module, *argv]
        self.stdin: IO[bytes] | None = None
        self.returncode: int | None = None
        self._status = -1
        self._reading = threading.Lock()
        with ExitStack() as used:
            if stdin == subprocess.PIPE:
                stdin, writes = os.pipe()
                used.callback(os.close, stdin)
                self.stdin = os.fdopen(writes, "wb")
            self._status = server.start(module, argv, environment, (stdin, stdout, stderr, *inherited), folder)
        if not (pid := self._read()):
            raise ConnectionResetError(f"the fork server has ended; {module} was not started")
        self.pid = int(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close stdin, wait for the end, and free the descriptors."""
        try:
            if self.stdin is not None:
                self.stdin.close()
        finally:
            self.wait()
            self._close()

    def fileno(self) -> int:
        """A descriptor that can be read once the process has ended."""
        return self._status

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._wait_for_end(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it has ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        code = self._wait_for_end(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _wait_for_end(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self], [], [], timeout)[0]:
            with self._reading:
                if self.returncode is None:
                    self.returncode = int(self._read() or -signal.SIGKILL)  # all end with the server
        return self.returncode

    def _read(self) -> bytes:
        """The next line of the process's status; nothing if the server has ended."""
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(self._status, 1)):
            line += byte
        return line

    def _close(self) -> None:
        status, self._status = self._status, -1
        if status >= 0:
            os.close(status)

    __del__ = _close
