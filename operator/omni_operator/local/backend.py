"""The embedded backend: a Topology as processes on this machine, started, watched and stopped as one.

Every process has its own group and log file. A process that ends before the pipeline is ready is a failure of the
whole; a replica that ends later is started again, as a cluster would; the head is not, since its clients are gone.
Nothing outlives the backend: `stop` drains in order, and `tether` covers the case that it cannot run.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from omni_operator.planning.topology import LOOPBACK, Process, Topology

POLL_SECONDS = 0.1
KILL_MARGIN_SECONDS = 10.0
RESTART_SECONDS = (1.0, 30.0)
LOG_LINES = 12
# Below the ports that Linux gives to outgoing connections, so that none is taken between choice and use.
PORT_RANGE = (20000, 32000)


class LocalFailure(Exception):
    """The pipeline cannot run, or go on running, on this machine."""

    exit_code = 1


class Interrupted(Exception):
    """The user asked for the end while something was waited for."""


# ---- ports


def require_free(port: int) -> None:
    """Raise LocalFailure unless something can listen on a port of this machine."""
    if not can_listen(port):
        raise LocalFailure(
            f"port {port} is in use by another program on this machine; stop that one, or choose another with --port"
        )


def can_listen(port: int) -> bool:
    for host in (LOOPBACK, "0.0.0.0"):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


class FreePorts:
    """Hands out ports that are free now, none of them twice."""

    def __init__(self, taken: int = 0) -> None:
        self._taken = {taken}

    def __call__(self, count: int) -> int:
        """The first of `count` consecutive ports."""
        for _ in range(1000):
            first = random.randrange(*PORT_RANGE)
            ports = range(first, first + count)
            if not self._taken.intersection(ports) and all(map(can_listen, ports)):
                self._taken.update(ports)
                return first
        raise LocalFailure(f"no {count} consecutive free ports between {PORT_RANGE[0]} and {PORT_RANGE[1]}")


# ---- devices and environment


def gpus() -> list[str]:
    """The ids of the NVIDIA GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device and device != "-1"]
    return sorted((p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*")), key=int)


def assign_devices(processes: Sequence[Process], available: Sequence[str]) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each process: its own where there are enough, else shared in turn."""
    assigned, cursor = [], 0
    for process in processes:
        wanted = min(process.devices, len(available))
        assigned.append(",".join(available[(cursor + i) % len(available)] for i in range(wanted)))
        cursor += wanted
    return assigned


def omni_command() -> list[str]:
    """How to start `omni` with the Python that runs now."""
    beside = Path(sys.executable).with_name("omni")
    return [str(beside if beside.exists() else shutil.which("omni") or "omni")]


# ---- processes


@dataclass
class Child:
    """One process, over its restarts."""

    process: Process
    log: Path
    environment: Mapping[str, str]
    popen: subprocess.Popen[bytes] | None = None
    state: str = "starting"
    is_ready: bool = False
    restarts: int = 0
    restart_at: float = field(default=0.0)

    @property
    def name(self) -> str:
        return self.process.name

    def start(self, command: Sequence[str]) -> None:
        self.state, self.is_ready = "starting", False
        tether = [sys.executable, "-m", "omni_operator.local.die_with_parent", str(os.getpid())]
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [*tether, *command, *self.process.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def exit_code(self) -> int | None:
        return self.popen.poll() if self.popen else None

    def signal(self, number: signal.Signals) -> None:
        if self.popen and self.popen.poll() is None:
            self.popen.send_signal(number)

    def sweep(self) -> None:
        """Kill what is left of the process's group."""
        if self.popen:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()

    def obituary(self) -> str:
        """Why it ended, as far as can be told from outside: exit code, and the end of its log."""
        code = self.exit_code()
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"exited with code {code}"
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        shown = "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"
        return f"{self.name} {how}; the end of its log, {self.log}:\n{shown}"


class LocalBackend:
    """The processes of one pipeline. `report` hears of every change, as (child, what it does now)."""

    def __init__(
        self,
        topology: Topology,
        folder: Path,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        report: Callable[[Child, str], None] = lambda child, state: None,
    ) -> None:
        self._command = list(command) if command is not None else omni_command()
        self._report = report
        self.interrupts = 0
        replicas = max(1, sum(len(process.data_ports) for process in topology.processes))
        threads = str(max(1, (os.cpu_count() or 1) // replicas))
        self.children = [
            Child(
                process,
                folder / f"{process.name}.log",
                {
                    "PYTHONUNBUFFERED": "1",
                    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
                    "CUDA_VISIBLE_DEVICES": devices,
                    **(environment or {}),
                },
            )
            for process, devices in zip(topology.processes, assign_devices(topology.processes, gpus()), strict=True)
        ]
        self._client = httpx.Client(timeout=httpx.Timeout(2.0), trust_env=False)

    @property
    def head(self) -> Child:
        return self.children[0]

    def interrupt(self) -> None:
        """Ask for the end, from a signal handler: once to drain, twice to kill."""
        self.interrupts += 1

    def start(self) -> None:
        for child in self.children:
            child.start(self._command)
            self._report(child, child.state)

    def wait_ready(self, timeout: float) -> None:
        """Return when every process is ready. Raises LocalFailure when one ends or time runs out, Interrupted."""
        deadline = time.monotonic() + timeout
        while not all(child.is_ready for child in self.children):
            self._tick()
            for child in self.children:
                if child.exit_code() is not None:
                    raise LocalFailure(child.obituary())
                self._look_at(child)
            if time.monotonic() > deadline:
                waiting = "; ".join(f"{c.name}: {c.state}" for c in self.children if not c.is_ready)
                raise LocalFailure(
                    f"not ready after {timeout:g} s: {waiting}; see the logs in {self.head.log.parent}, or give more"
                    " time with --timeout"
                )

    def watch(self) -> None:
        """Keep the replicas running until Interrupted; raises LocalFailure when the head ends."""
        while True:
            self._tick()
            for child in self.children:
                if child.exit_code() is None:
                    if not child.is_ready:
                        self._look_at(child)
                elif child is self.head:
                    raise LocalFailure(child.obituary())
                else:
                    self._revive(child)

    def stop(self) -> None:
        """End every process: stage after stage, each of which finishes what it runs for the next, then the head.

        An interrupt from now on means to kill what still drains.
        """
        interrupts = self.interrupts
        try:
            for group in (*self._stages(), [self.head]):
                running = [child for child in group if child.exit_code() is None]
                for child in running:
                    child.signal(signal.SIGTERM)
                    self._report(child, "stopping")
                for child in running:
                    self._await_end(child, interrupts)
        finally:
            for child in self.children:
                child.signal(signal.SIGKILL)
                child.sweep()
            self._client.close()

    def _stages(self) -> list[list[Child]]:
        """The replicas of each stage, in the order in which requests pass them."""
        stages: dict[str, list[Child]] = {}
        for child in self.children[1:]:
            stages.setdefault(child.process.stage.name, []).append(child)
        return list(stages.values())

    def _tick(self) -> None:
        if self.interrupts:
            raise Interrupted
        time.sleep(POLL_SECONDS)

    def _await_end(self, child: Child, interrupts: int) -> None:
        deadline = time.monotonic() + child.process.drain_seconds + KILL_MARGIN_SECONDS
        while child.exit_code() is None and self.interrupts == interrupts and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        child.signal(signal.SIGKILL)
        child.sweep()
        self._report(child, "stopped")

    def _revive(self, child: Child) -> None:
        now = time.monotonic()
        if not child.restart_at:
            first, most = RESTART_SECONDS
            child.restart_at = now + min(most, first * 2**child.restarts)
            child.sweep()
            self._report(child, f"{child.obituary()}\n    starting it again")
        elif now >= child.restart_at:
            child.restarts, child.restart_at = child.restarts + 1, 0.0
            child.start(self._command)

    def _look_at(self, child: Child) -> None:
        """Ask a process how far it is, through the probes that a cluster uses."""
        state, child.is_ready = self._probe(child)
        if state != child.state:
            child.state = state
            self._report(child, state)

    def _probe(self, child: Child) -> tuple[str, bool]:
        url = f"http://{LOOPBACK}:{child.process.http_port}"
        try:
            started = self._client.get(f"{url}/startupz")
            if started.status_code != 200:
                return reason(started, "loading"), False
            ready = self._client.get(f"{url}/readyz")
            return ("ready", True) if ready.status_code == 200 else (reason(ready, "started"), False)
        except httpx.TransportError:
            return "starting", False


def reason(response: httpx.Response, otherwise: str) -> str:
    """What a probe that failed says of itself."""
    try:
        return str(response.json()["reason"]) or otherwise
    except (ValueError, KeyError, TypeError):
        return otherwise
