"""`omni operator` as a process of its own, and what can be read off it from outside."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx
from benchmarks.ports import free_ports

PATIENCE = 900.0


def wait_for(holds: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"never came: {what}")
        time.sleep(0.1)


class Process:
    """An operator as a process, and what can be read off it from outside."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)

    @property
    def pid(self) -> int:
        return self._process.pid

    def memory(self) -> float:
        """MiB that it holds."""
        (pages,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        return int(pages) / 1024

    def peak(self) -> float:
        """The most MiB that it has held."""
        (pages,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        return int(pages) / 1024

    def processor(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)


class Operator(Process):
    """`omni operator`, with the sources that are given, or these."""

    def __init__(self, kubeconfig: str, log: Path, sources: str) -> None:
        self._ports = free_ports(2)
        command = [str(Path(sys.executable).with_name("omni")), "operator"]
        command += [f"--probe-port={self._ports[0]}", f"--metrics-port={self._ports[1]}"]
        home = {"PATH": "/usr/bin:/bin", "HOME": str(log.parent)}
        super().__init__(command, {**home, "KUBECONFIG": kubeconfig, "PYTHONPATH": sources}, log)

    def passes(self) -> int:
        """Passes over pipelines that have ended well."""
        return self._told(r'omni_operator_reconcile_seconds_count\{result="done"\} (\S+)')

    def calls(self) -> int:
        """Calls of the API server, but for watches of kopf."""
        return self._told(r"omni_operator_api_calls_total\{[^}]*\} (\S+)")

    def _told(self, series: str) -> int:
        """The sum of some series of its metrics."""
        try:
            text = httpx.get(f"http://127.0.0.1:{self._ports[1]}/metrics", trust_env=False, timeout=10).text
        except httpx.TransportError:
            return 0
        return sum(int(float(value)) for value in re.findall(series, text))

    def acts(self) -> None:
        wait_for(lambda: "acts from now on" in self.log.read_text(), "an operator that acts")
