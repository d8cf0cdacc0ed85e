"""The fork server of a run of tests: `python -m tests.worker.warm_server FD`, where FD is a socket that listens.

It imports when the first client connects. Each client has a server of its own, forked from this one, so that what the
client has started ends with it. The server ends when its stdin closes.
"""

import importlib
import os
import select
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from omni_worker.commands.serve import REPLICA_MODULES
from omni_worker.importing import importing
from omni_worker.parallel.fork_server import WITHOUT_CUDA, end_with, serve

CLI = "omni_worker.commands.cli"
MODULES = (
    CLI, "omni_worker.commands.head", "omni_worker.commands.headless", "omni_worker.engine.executor.worker",
    *REPLICA_MODULES,
)  # fmt: skip


def main() -> NoReturn:
    """Accept clients until stdin closes."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        import_all()
        server = os.getpid()
        if os.fork() == 0:
            end_with(server)
            listener.close()
            serve(connection, ())
        connection.close()
        reap()
    os._exit(0)


def import_all() -> None:
    """Import everything, the first time."""
    os.environ.update(WITHOUT_CUDA)
    with importing():
        for module in MODULES:
            importlib.import_module(module)


def reap() -> None:
    """Forget the servers that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main()
