"""Runs a process's own replicas as child processes, and restarts the ones that die.

A replica that fails before it was ever up ends the whole process: what it says (a model that is not there, a port in
use) would not change. One that dies later is started again with backoff, and one that hangs and says nothing too. One
that does so again and again ends the process too, when its neighbours have drained, so that whoever watches over
processes sees it.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from omni_worker.config.records import ServeConfig
from omni_worker.errors import CommandError
from omni_worker.replica.restarts import Restarts

log = logging.getLogger(__name__)
COMMAND = (sys.executable, "-m", "omni_worker.replica.process")
LAST_SECONDS = 10.0  # beyond the drain timeout, until a replica is killed
LISTEN_SECONDS = 1.0
TORCH_DISTRIBUTED_PORT = 29500


@dataclass
class Child:
    """What is known of one replica process."""

    index: int
    phase: str = "starting"
    is_registered: bool = False
    refusal: str | None = None
    restarts: int = 0
    was_up: bool = False
    up_since: float | None = None
    silence: float = 0.0
    stats: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None


class ReplicaFailed(CommandError):
    """A replica could not start at all."""


class Supervisor:
    """The local replicas of one `omni serve` process, each of them a process that `command` starts."""

    def __init__(self, config: ServeConfig, command: Sequence[str] = COMMAND) -> None:
        self._config = config
        self._command = command
        self._draining = False
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self.children = [Child(index) for index in range(config.local_replicas)]

    async def run(self) -> None:
        """Keep all replicas running until `drain`. Raises ReplicaFailed where one cannot start, or go on."""
        try:
            async with asyncio.TaskGroup() as group:
                for child in self.children:
                    group.create_task(self._keep(child))
        except* ReplicaFailed as failures:
            raise failures.exceptions[0] from None
        finally:
            for process in self._processes.values():
                if process.returncode is None:
                    process.kill()

    async def drain(self) -> None:
        """Have every replica finish what it runs and end; kill what has not ended a little after its drain timeout."""
        self._draining = True
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        waiting = [process.wait() for process in self._processes.values()]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*waiting), self._config.drain_timeout + LAST_SECONDS)
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()

    @property
    def are_loaded(self) -> bool:
        """Whether every replica has its weights."""
        return all(child.was_up for child in self.children)

    async def _keep(self, child: Child) -> None:
        restarts = Restarts()
        while not self._draining:
            code = await self._run_once(child)
            child.is_registered, child.phase = False, "dead"
            if self._draining:
                return
            reason = child.failure or (f"exit code {code}" if code >= 0 else f"killed by signal {-code}")
            if not child.was_up:
                raise ReplicaFailed(f"replica {child.index} could not start: {reason}")
            now = time.monotonic()
            pause = restarts.pause(now, 0.0 if child.up_since is None else now - child.up_since)
            if pause is None:
                log.error("replica %d died (%s) once too often", child.index, reason)
                await self.drain()
                raise ReplicaFailed(f"replica {child.index} died {restarts.story}, the last time: {reason}")
            log.error("replica %d died (%s); it is started again in %g s", child.index, reason, pause)
            await asyncio.sleep(pause)
            child.restarts += 1

    async def _run_once(self, child: Child) -> int:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment(child.index),
            start_new_session=True,  # a Ctrl-C in the terminal reaches the supervisor alone
        )
        self._processes[child.index] = process
        child.failure, child.up_since, child.stats = None, None, {}
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asdict(self._config.replica(child.index))).encode() + b"\n")
        watchdog = asyncio.get_running_loop().call_later(
            self._config.stage_init_timeout, self._check_started, child, process
        )
        listening = asyncio.create_task(self._listen(child, process))
        try:
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            while line := await process.stdout.readline():
                self._note(child, json.loads(line))
            return await process.wait()
        finally:
            watchdog.cancel()
            listening.cancel()

    def _check_started(self, child: Child, process: asyncio.subprocess.Process) -> None:
        if child.phase in ("starting", "loading") and process.returncode is None:
            child.failure = (
                f"the model was not loaded within {self._config.stage_init_timeout:g} s (--stage-init-timeout)"
            )
            process.kill()

    async def _listen(self, child: Child, process: asyncio.subprocess.Process) -> None:
        """Kill a replica that is up and says nothing for as long as a step may take, and the time it has to end."""
        longest = self._config.replica(child.index).engine.step_timeout + LAST_SECONDS
        child.silence = 0.0
        while child.silence <= longest:
            before = time.monotonic()
            await asyncio.sleep(LISTEN_SECONDS)
            passed = min(time.monotonic() - before, 2 * LISTEN_SECONDS)  # where this process was stopped itself
            child.silence = child.silence + passed if child.phase == "loaded" else 0.0
        child.failure = f"it said nothing for {longest:g} s, as a process that hangs (--step-timeout)"
        process.kill()

    def _note(self, child: Child, line: dict[str, Any]) -> None:
        child.silence = 0.0
        match line.pop("event"):
            case "alive":
                pass
            case "stats":
                child.stats = line
            case "membership":
                child.is_registered, child.refusal = line["registered"], line["refusal"]
            case "failed":
                child.failure = line["reason"]
            case phase:
                child.phase = phase
                if phase == "loaded":
                    child.was_up, child.up_since = True, time.monotonic()

    def _environment(self, index: int) -> dict[str, str]:
        """This process's environment; where there are several replicas, each gets its share of devices and cores."""
        count = self._config.local_replicas
        changes = {"MASTER_PORT": str(TORCH_DISTRIBUTED_PORT + index)}
        if count > 1:
            devices = self._config.devices
            share = len(devices) // count
            if share:
                changes["CUDA_VISIBLE_DEVICES"] = ",".join(devices[index * share : (index + 1) * share])
            changes["OMP_NUM_THREADS"] = os.environ.get(
                "OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count))
            )
        return {**os.environ, **changes}
