"""A process that a fork server has started, as asyncio's own processes are used."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Mapping

from omni_worker.parallel.fork_server import ForkServer


class ForkedProcess:
    """A process without arguments, with `stdin` and `stdout` as streams. Its stderr is that of the server.

    returncode: the exit code, negative for a signal; None while it runs
    """

    def __init__(self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self.stdin, self.stdout = stdin, stdout
        self.returncode: int | None = None
        self._pid: int | None = None
        self._ended = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, server: ForkServer, module: str, environment: Mapping[str, str]) -> "ForkedProcess":
        """Ask the server for a process that runs `main()` of `module`; it may start later.

        Raises OSError if the server has ended.
        """
        ours, its = socket.socketpair()
        with its:
            try:
                status = server.start(module, (), environment, (its.fileno(), its.fileno(), 2))
            except BaseException:
                ours.close()
                raise
        stdout, stdin = await asyncio.open_unix_connection(sock=ours)
        process = cls(stdin, stdout)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(status, "rb", 0)
        )
        process._following = asyncio.create_task(process._follow(reader))
        return process

    async def wait(self) -> int:
        """The exit code, when the process has ended."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.returncode is not None:
            return
        if self._pid is None:  # the server still imports modules; once forked, the process finds its stdin closed
            self._end(-number)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    async def _follow(self, status: asyncio.StreamReader) -> None:
        pid = await status.readline()
        self._pid = int(pid) if pid else None
        code = await status.readline()
        if not code:  # the server has ended, and nobody can tell when this process does
            self.kill()
        self._end(int(code or -signal.SIGKILL))

    def _end(self, code: int) -> None:
        if self.returncode is None:
            self.returncode = code
            self.stdin.close()
            self._ended.set()
