"""Runs `omni up` and other commands as a user does, each with a state folder of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

OMNI = str(Path(sys.executable).with_name("omni"))
PATIENCE = 600  # seconds, on a busy machine
EXAMPLES = Path(__file__).parents[3] / "examples"


def eventually(condition: Callable[[], Any], description: str) -> None:
    """Wait for a condition that other processes bring about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {description}"
        time.sleep(0.1)


def running_command_lines(folder: Path) -> list[str]:
    """The command line of every process that the `omni up` with this state folder started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            if f"XDG_STATE_HOME={folder}".encode() in environment:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [line for line in found if line]


class OmniUp:
    """An `omni up` with a state folder of its own. As a context, it sets `url` once the pipeline serves."""

    def __init__(self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.environment = {**os.environ, "XDG_STATE_HOME": str(folder), "HOME": str(folder), **(environment or {})}
        self.environment.pop("OMNI_URL", None)
        self.environment.pop("KUBECONFIG", None)
        self._errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [OMNI, "up", *arguments], env=self.environment, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def __enter__(self) -> "OmniUp":
        self.url = self.first_line().split()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def messages(self) -> str:
        return (self.folder / "stderr").read_text()

    def first_line(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"omni up ended: {self.messages()}"
        return line

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)
        if self.process.stdout:
            self.process.stdout.close()
        self._errors.close()


def run_omni(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a folder of its own and without this machine's configuration."""
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    variables = {**inherited, "HOME": str(folder), "XDG_STATE_HOME": str(folder), **(environment or {})}
    return subprocess.run(
        [OMNI, *arguments], env=variables, capture_output=True, text=True, timeout=PATIENCE, cwd=folder
    )
