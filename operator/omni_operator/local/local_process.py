"""One process of a pipeline on this machine: start, signal, kill, and why it exited."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omni_operator.planning.topology.records import Process

LOG_LINES = 12


def omni_command() -> list[str]:
    """The command line that starts `omni` with the Python of this process."""
    beside_python = Path(sys.executable).with_name("omni")
    return [str(beside_python if beside_python.exists() else shutil.which("omni") or "omni")]


@dataclass
class LocalProcess:
    """One process of the topology, across its restarts.

    `state` is a description for people. `restart_at` is the monotonic time of the next restart, 0 if none is due.
    """

    spec: Process
    log: Path
    environment: Mapping[str, str]
    popen: subprocess.Popen[bytes] | None = None
    state: str = "starting"
    is_ready: bool = False
    restarts: int = 0
    restart_at: float = 0.0

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def has_exited(self) -> bool:
        return self.exit_code() is not None

    def start(self, command: Sequence[str]) -> None:
        """Start `command` with this process's arguments, in a process group of its own. Its output goes to the log."""
        self.state, self.is_ready = "starting", False
        die_with_parent = [sys.executable, "-m", "omni_operator.local.die_with_parent", str(os.getpid())]
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [*die_with_parent, *command, *self.spec.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def exit_code(self) -> int | None:
        """The exit code; negative for a signal, None if the process runs or was never started."""
        return self.popen.poll() if self.popen else None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the process still runs."""
        if self.popen and self.popen.poll() is None:
            self.popen.send_signal(number)

    def kill_group(self) -> None:
        """Kill the process and everything that it started."""
        if self.popen:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()

    def exit_report(self) -> str:
        """How the process exited, with the last lines of its log."""
        code = self.exit_code()
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"exited with code {code}"
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        end_of_log = "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"
        return f"{self.name} {how}; the end of its log, {self.log}:\n{end_of_log}"
