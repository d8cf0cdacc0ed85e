"""The embedded backend: runs the processes of a Topology on this machine.

Each process has its own process group and log file. If a process exits before the pipeline is ready, the run fails.
Later, a replica that exits is restarted, as in a cluster. A head that exits ends the run, because its clients have lost
their connections. No process outlives the backend: `stop` drains them in order, and `die_with_parent` covers the case
that the backend is killed.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from omni_operator.local.errors import Interrupted, LocalFailure
from omni_operator.local.gpus import assign_gpus, visible_gpus
from omni_operator.local.local_process import LocalProcess, omni_command
from omni_operator.local.readiness import check_readiness
from omni_operator.planning.topology.records import Topology

POLL_SECONDS = 0.1
PROBE_SECONDS = 2.0
KILL_MARGIN_SECONDS = 10.0
FIRST_RESTART_SECONDS, MAX_RESTART_SECONDS = 1.0, 30.0

Report = Callable[[LocalProcess, str], None]
"""Called with a process and its new state whenever that changes."""


class LocalBackend:
    """The processes of one pipeline: the head, then the replicas in the order of their stages."""

    def __init__(
        self,
        topology: Topology,
        folder: Path,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        report: Report = lambda process, state: None,
    ) -> None:
        self._command = list(command) if command is not None else omni_command()
        self._report = report
        self._interrupt_count = 0
        replicas = max(1, sum(len(process.data_ports) for process in topology.processes))
        threads = str(max(1, (os.cpu_count() or 1) // replicas))
        self.processes = [
            LocalProcess(
                spec,
                folder / f"{spec.name}.log",
                {
                    "PYTHONUNBUFFERED": "1",
                    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
                    "CUDA_VISIBLE_DEVICES": gpus,
                    **(environment or {}),
                },
            )
            for spec, gpus in zip(topology.processes, assign_gpus(topology.processes, visible_gpus()), strict=True)
        ]
        self._client = httpx.Client(timeout=httpx.Timeout(PROBE_SECONDS), trust_env=False)

    @property
    def head(self) -> LocalProcess:
        return self.processes[0]

    def interrupt(self) -> None:
        """End the run; a signal handler calls this. The first interrupt drains, the second kills."""
        self._interrupt_count += 1

    def start(self) -> None:
        """Start every process."""
        for process in self.processes:
            process.start(self._command)
            self._report(process, process.state)

    def wait_ready(self, timeout: float) -> None:
        """Return once every process is ready.

        Raises LocalFailure if a process exits or `timeout` seconds pass, and Interrupted after an interrupt.
        """
        deadline = time.monotonic() + timeout
        while not all(process.is_ready for process in self.processes):
            self._tick()
            for process in self.processes:
                if process.has_exited:
                    raise LocalFailure(process.exit_report())
                self._update_readiness(process)
            if time.monotonic() > deadline:
                waiting = "; ".join(f"{each.name}: {each.state}" for each in self.processes if not each.is_ready)
                raise LocalFailure(
                    f"not ready after {timeout:g} s: {waiting}; see the logs in {self.head.log.parent}, or give more"
                    " time with --timeout"
                )

    def watch(self) -> None:
        """Restart replicas that exit, until Interrupted. Raises LocalFailure if the head exits."""
        while True:
            self._tick()
            for process in self.processes:
                if not process.has_exited:
                    if not process.is_ready:
                        self._update_readiness(process)
                elif process is self.head:
                    raise LocalFailure(process.exit_report())
                else:
                    self._restart_after_delay(process)

    def stop(self) -> None:
        """End every process: stage by stage, in the order in which requests pass them, and the head last.

        Each stage drains before the next one stops, so that running requests can finish. An interrupt during `stop`
        kills what has not drained yet.
        """
        interrupts_before = self._interrupt_count
        try:
            for group in (*self._replicas_by_stage(), [self.head]):
                running = [process for process in group if not process.has_exited]
                for process in running:
                    process.signal(signal.SIGTERM)
                    self._report(process, "stopping")
                for process in running:
                    self._wait_for_exit(process, interrupts_before)
        finally:
            for process in self.processes:
                process.signal(signal.SIGKILL)
                process.kill_group()
            self._client.close()

    def _replicas_by_stage(self) -> list[list[LocalProcess]]:
        """The replicas of each stage, in the order in which requests pass the stages."""
        stages: dict[str, list[LocalProcess]] = {}
        for process in self.processes[1:]:
            stages.setdefault(process.spec.stage.name, []).append(process)
        return list(stages.values())

    def _tick(self) -> None:
        if self._interrupt_count:
            raise Interrupted
        time.sleep(POLL_SECONDS)

    def _wait_for_exit(self, process: LocalProcess, interrupts_before: int) -> None:
        """Wait for a process to drain, and kill it after its drain timeout or another interrupt."""
        deadline = time.monotonic() + process.spec.drain_seconds + KILL_MARGIN_SECONDS
        while not process.has_exited and self._interrupt_count == interrupts_before and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        process.signal(signal.SIGKILL)
        process.kill_group()
        self._report(process, "stopped")

    def _restart_after_delay(self, process: LocalProcess) -> None:
        """Report a replica that exited, and start it again after a delay that doubles with each restart."""
        now = time.monotonic()
        if not process.restart_at:
            process.restart_at = now + min(MAX_RESTART_SECONDS, FIRST_RESTART_SECONDS * 2**process.restarts)
            process.kill_group()
            self._report(process, f"{process.exit_report()}\n    starting it again")
        elif now >= process.restart_at:
            process.restarts, process.restart_at = process.restarts + 1, 0.0
            process.start(self._command)

    def _update_readiness(self, process: LocalProcess) -> None:
        state, process.is_ready = check_readiness(self._client, process.spec.http_port)
        if state != process.state:
            process.state = state
            self._report(process, state)
