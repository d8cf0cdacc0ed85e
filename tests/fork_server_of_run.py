"""Starts and stops the fork server of a run of tests. Imports nothing of the worker, because most runs need none."""

import os
import socket
import subprocess
import sys
from pathlib import Path

NAME = "fork-server"


class ForkServerOfRun:
    """The server, which listens at `NAME` in a folder, for all processes of the tests."""

    def __init__(self, folder: str) -> None:
        folders = [str(Path(__file__).parents[1]), *filter(os.path.isabs, sys.path)]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(f"{folder}/{NAME}")
            listener.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.worker.warm_server", str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
                start_new_session=True,  # so that a Ctrl-C in the terminal reaches only the tests
            )

    def stop(self) -> None:
        """End it, and all that its clients have started."""
        self._process.communicate()
