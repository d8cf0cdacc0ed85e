"""Runs a process's local replicas as child processes, and restarts those that die.

A replica that fails before it was loaded for the first time ends the whole process, because a restart would not change
the reason (a missing model, a port in use). A replica that dies later, or reports nothing for too long, is restarted
with backoff. If it dies too often, the other replicas drain and the process ends, so that Kubernetes sees the failure.
"""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from omni_worker.config.records import ServeConfig
from omni_worker.errors import CommandError
from omni_worker.parallel.child_process import safe_path
from omni_worker.parallel.fork_server import ForkServer
from omni_worker.replica.forked_process import ForkedProcess
from omni_worker.replica.reports import (
    Alive,
    Draining,
    Failed,
    Loaded,
    Loading,
    Membership,
    Report,
    Stats,
    Stopped,
    read_reports,
)
from omni_worker.replica.restarts import Restarts

log = logging.getLogger(__name__)
MODULE = "omni_worker.replica.process"
COMMAND = (sys.executable, "-m", MODULE)
GRACE_SECONDS = 10.0  # beyond the drain or step timeout, until a replica is killed
SILENCE_CHECK_SECONDS = 1.0
TORCH_DISTRIBUTED_PORT = 29500


@dataclass
class Child:
    """One local replica, as its process last reported it.

    phase: starting, loading, loaded, draining, stopped or dead
    loading: how far the loading is
    refusal: the head's reason if it refused the registration
    loaded_at: when the process loaded its weights, on the monotonic clock; None before that
    silence: seconds since the last report, counted while the phase is `loaded`
    stats: the last report of statistics
    failure: why the process failed, if it or the supervisor knows
    """

    index: int
    phase: str = "starting"
    is_registered: bool = False
    refusal: str | None = None
    restarts: int = 0
    was_loaded: bool = False
    loading: Loading = field(default_factory=Loading)
    loaded_at: float | None = None
    silence: float = 0.0
    stats: Stats = field(default_factory=Stats)
    failure: str | None = None


ChildProcess = asyncio.subprocess.Process | ForkedProcess


class ReplicaFailed(CommandError):
    """A replica cannot start, or dies too often to be restarted again."""


class Supervisor:
    """The local replicas of one `omni serve` process.

    `fork_server` starts the process of each. Without one, or if it has ended, `command` does.
    """

    def __init__(
        self, config: ServeConfig, fork_server: ForkServer | None = None, command: Sequence[str] = COMMAND
    ) -> None:
        self._config = config
        self._fork_server = fork_server
        self._command = command
        self._draining = False
        self._processes: dict[int, ChildProcess] = {}
        self.children = [Child(index) for index in range(config.local_replicas)]

    async def run(self) -> None:
        """Keep all replicas running until `drain`. Raises ReplicaFailed if one cannot start or dies too often."""
        try:
            async with asyncio.TaskGroup() as group:
                for child in self.children:
                    group.create_task(self._keep_running(child))
        except* ReplicaFailed as failures:
            raise failures.exceptions[0] from None
        finally:
            for process in self._processes.values():
                if process.returncode is None:
                    process.kill()

    async def drain(self) -> None:
        """Let every replica finish its requests and end. Kills it GRACE_SECONDS after the drain timeout."""
        self._draining = True
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        waiting = [process.wait() for process in self._processes.values()]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*waiting), self._config.drain_timeout + GRACE_SECONDS)
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()

    @property
    def are_loaded(self) -> bool:
        """Whether every replica has loaded its weights at least once."""
        return all(child.was_loaded for child in self.children)

    @property
    def why_not_loaded(self) -> str | None:
        """What the replicas that have not loaded yet are at; None if there are none."""
        loading = [child.loading for child in self.children if not child.was_loaded]
        if not loading:
            return None
        slowest = min(loading, key=lambda one: (one.warm_ups > 0, one.warmed_up))
        if not slowest.warm_ups:
            return "the model is being loaded"
        return f"the model is loaded and warms up: {slowest.warmed_up} of {slowest.warm_ups} batches are done"

    async def _keep_running(self, child: Child) -> None:
        restarts = Restarts()
        while not self._draining:
            code = await self._run_once(child)
            child.is_registered, child.phase = False, "dead"
            if self._draining:
                return
            reason = child.failure or (f"exit code {code}" if code >= 0 else f"killed by signal {-code}")
            if not child.was_loaded:
                raise ReplicaFailed(f"replica {child.index} could not start: {reason}")
            now = time.monotonic()
            pause = restarts.pause(now, 0.0 if child.loaded_at is None else now - child.loaded_at)
            if pause is None:
                log.error("replica %d died (%s) once too often", child.index, reason)
                await self.drain()
                raise ReplicaFailed(f"replica {child.index} died {restarts.summary}, the last time: {reason}")
            log.error("replica %d died (%s); it is started again in %g s", child.index, reason, pause)
            await asyncio.sleep(pause)
            child.restarts += 1

    async def _start(self, environment: dict[str, str]) -> ChildProcess:
        if self._fork_server is not None:
            try:
                return await ForkedProcess.start(self._fork_server, MODULE, environment)
            except OSError as error:
                log.warning("the fork server has ended (%s); replicas start without it", error)
                self._fork_server = None
        return await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # so that a Ctrl-C in the terminal reaches only the supervisor
        )

    async def _run_once(self, child: Child) -> int:
        self._processes[child.index] = process = await self._start(self._environment(child.index))
        if self._draining:
            process.terminate()
        child.failure, child.loaded_at, child.stats = None, None, Stats()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(self._config.replica(child.index).encode() + b"\n")
        load_timer = asyncio.get_running_loop().call_later(
            self._config.stage_init_timeout, self._check_loaded, child, process
        )
        watching = asyncio.create_task(self._watch_silence(child, process))
        try:
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            async for report in read_reports(process.stdout, f"replica {child.index}"):
                self._on_report(child, report)
            return await process.wait()
        finally:
            load_timer.cancel()
            watching.cancel()

    def _check_loaded(self, child: Child, process: ChildProcess) -> None:
        if child.phase in ("starting", "loading") and process.returncode is None:
            child.failure = (
                f"the model was not loaded within {self._config.stage_init_timeout:g} s (--stage-init-timeout)"
            )
            process.kill()

    async def _watch_silence(self, child: Child, process: ChildProcess) -> None:
        """Kill a loaded replica that reports nothing for longer than --step-timeout and GRACE_SECONDS."""
        longest = self._config.replica(child.index).engine.step_timeout + GRACE_SECONDS
        child.silence = 0.0
        while child.silence <= longest:
            before = time.monotonic()
            await asyncio.sleep(SILENCE_CHECK_SECONDS)
            # Capped, because this process may have been suspended itself.
            passed = min(time.monotonic() - before, 2 * SILENCE_CHECK_SECONDS)
            child.silence = child.silence + passed if child.phase == "loaded" else 0.0
        child.failure = f"it said nothing for {longest:g} s, as a process that hangs (--step-timeout)"
        process.kill()

    def _on_report(self, child: Child, report: Report) -> None:
        child.silence = 0.0
        match report:
            case Alive():
                pass
            case Stats():
                child.stats = report
            case Membership():
                child.is_registered, child.refusal = report.registered, report.refusal
            case Failed():
                child.failure = report.reason
            case Loading():
                child.phase, child.loading = "loading", report
            case Loaded():
                child.phase, child.was_loaded, child.loaded_at = "loaded", True, time.monotonic()
            case Draining():
                child.phase = "draining"
            case Stopped():
                child.phase = "stopped"

    def _environment(self, index: int) -> dict[str, str]:
        """The environment of a replica: that of this process, with the replica's share of the devices and cores."""
        count = self._config.local_replicas
        changes = {"MASTER_PORT": str(TORCH_DISTRIBUTED_PORT + index), **safe_path(os.environ)}
        if count > 1:
            devices = self._config.devices
            share = len(devices) // count
            if share:
                changes["CUDA_VISIBLE_DEVICES"] = ",".join(devices[index * share : (index + 1) * share])
            changes["OMP_NUM_THREADS"] = os.environ.get(
                "OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count))
            )
        return {**os.environ, **changes}
