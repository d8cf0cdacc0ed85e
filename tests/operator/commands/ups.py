"""Runs `omni up` as a user does, with a state folder of its own, and sees what it started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

OMNI = str(Path(sys.executable).with_name("omni"))


def eventually(holds: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.1)


def command_lines(folder: Path) -> list[str]:
    """Of every process that this folder's `omni up` started, by the files that its command lines name."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            if f"XDG_STATE_HOME={folder}".encode() in environment:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [line for line in found if line]


class Up:
    """An `omni up` with a state folder of its own; its `url` is there once it serves."""

    def __init__(self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.environment = {**os.environ, "XDG_STATE_HOME": str(folder), "HOME": str(folder), **(environment or {})}
        self.environment.pop("OMNI_URL", None)
        self.environment.pop("KUBECONFIG", None)
        self._errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [OMNI, "up", *arguments], env=self.environment, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def __enter__(self) -> "Up":
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
        return self.process.wait(120)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(120)
        if self.process.stdout:
            self.process.stdout.close()
        self._errors.close()


def omni(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with nothing of the machine's own state in sight."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    variables = {**kept, "HOME": str(folder), "XDG_STATE_HOME": str(folder), **(environment or {})}
    return subprocess.run([OMNI, *arguments], env=variables, capture_output=True, text=True, timeout=120, cwd=folder)
