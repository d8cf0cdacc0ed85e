"""The main of a replica process: `python -m omni_worker.replica.process`.

It reads its ReplicaConfig as one line of JSON from stdin, reports to its supervisor on stdout (see `reporting`), and
ends when the supervisor ends. SIGTERM drains it.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from omni_worker.addresses import tcp_address
from omni_worker.config import model_source
from omni_worker.config.records import ReplicaConfig
from omni_worker.coordinator.loras import HeldLoras, LoraState
from omni_worker.coordinator.messages import Register, ReplicaState
from omni_worker.coordinator.stage_client import RegistrationStatus, StageClient
from omni_worker.engine.engine import Engine
from omni_worker.errors import CommandError
from omni_worker.importing import importing
from omni_worker.model_card import ModelCard
from omni_worker.parallel.child_process import end_with_parent
from omni_worker.parallel.fork_server import IS_SUPPORTED, ForkServer
from omni_worker.replica.lora_keeper import CALL_SECONDS, LoraKeeper
from omni_worker.replica.reporting import STATS_TIMEOUT_SECONDS, Reporter, report_liveness, report_stats
from omni_worker.replica.server import ReplicaServer
from omni_worker.replica.warm_up import warm_up, warm_up_params
from omni_worker.telemetry import tracing
from omni_worker.telemetry.logs import configure_logging
from omni_worker.transport import keys
from omni_worker.transport.sockets import local_address_towards

if TYPE_CHECKING:
    from omni_worker.replica.request_spans import RequestSpans

log = logging.getLogger(__name__)
WORKER = "omni_worker.engine.executor.worker"
STEP_CHECK_SECONDS = 1.0
ADDRESS_RETRY_SECONDS = 1.0
MAX_HAND_BACK_SECONDS = 5.0  # part of the drain timeout: to hand back the rest and to end the last step


class ReplicaProcess:
    """The life of a replica: load → warm up → register → serve → drain."""

    def __init__(self, config: ReplicaConfig, report: Reporter, fork_server: ForkServer | None = None) -> None:
        self._config = config
        self._fork_server = fork_server
        self._report = report
        self._state = ReplicaState.STARTING
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._failure: str | None = None
        self._is_stuck = False
        self._keys = keys.read(config.secret_file)
        self._tracing = tracing.start(config.traces_endpoint, "replica")
        self._spans: RequestSpans | None = None
        if self._tracing.is_on:
            from omni_worker.replica import request_spans  # only needed for traces

            self._spans = request_spans.RequestSpans(self._tracing)
        self._server = ReplicaServer(config.engine.max_num_seqs, self._keys, self._spans)

    async def run(self) -> int:
        """Serve until SIGTERM or a failure, and return the exit code.

        Ends the process itself if the engine's thread is in a step that does not end.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._server.bind(self._config.bind_host, self._config.data_port)
        self._report("loading")
        engine, card, digest = await asyncio.to_thread(self._load)
        async with asyncio.TaskGroup() as group:
            serving = [group.create_task(self._server.run()), group.create_task(self._check_itself())]
            await self._unless_stopped(self._warm_up(engine, card))
            if not self._stop.is_set():
                self._report("loaded", pipeline=card.pipeline, mode=card.mode)
                self._state = ReplicaState.UP
                registration = await self._registration(card, digest)
                client = self._membership_client(registration)
                loras = self._lora_keeper(engine, client, registration)
                background = [
                    client.run(),
                    report_stats(self._report, self._server, engine),
                    self._watch_steps(engine, card),
                    report_liveness(self._report),
                ]
                serving += [group.create_task(work) for work in background]
                await self._stop.wait()
                await loras.close()
                if self._failure is None:
                    await self._drain(client)
            for task in serving:
                task.cancel()
        await asyncio.to_thread(self._tracing.close)
        return self._end(engine)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work` to end, or until the replica must end, because its engine failed for example."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            task.result()
        else:
            task.cancel()

    async def _warm_up(self, engine: Engine, card: ModelCard) -> None:
        if self._config.engine.text_encoder:  # otherwise, only the stage before knows what embeddings look like
            await self._run_own_requests(card)
        with contextlib.suppress(TimeoutError):  # the metrics are off by the graphs of the warm-up, then
            await asyncio.wrap_future(engine.collective_rpc("end_warm_up", STATS_TIMEOUT_SECONDS))

    async def _run_own_requests(self, card: ModelCard) -> None:
        engine = self._config.engine

        def report_progress(done: int, total: int) -> None:
            self._report("loading", warmed_up=done, warm_ups=total)

        if await warm_up(self._server, card, engine.max_num_seqs, engine.load.warm_up, report_progress):
            self._server.self_check.example = warm_up_params(card, seed=0)

    async def _check_itself(self) -> None:
        """End the replica if it fails a request of its own."""
        self._failure = await self._server.self_check.run()
        self._stop.set()

    def _load(self) -> tuple[Engine, ModelCard, str]:
        with importing():  # here, after "loading" was reported: torch takes seconds
            from omni_worker.engine.build import build_engine

        source = model_source.parse(self._config.model, self._config.revision)
        on_step = None if self._spans is None else self._spans.record_step
        engine, card = build_engine(
            self._config.engine, source, self._server.on_event, self._on_engine_failure, on_step, self._fork_server
        )
        self._server.engine = engine
        self._server.default_steps = card.defaults.num_inference_steps or 0
        engine.start()
        return engine, card, source.digest

    def _membership_client(self, registration: Register) -> StageClient:
        return StageClient(
            registration,
            self._config.master_address,
            self._config.master_port,
            state=lambda: self._state,
            load=lambda: self._server.load,
            on_change=self._on_membership,
            keys=self._keys,
        )

    def _lora_keeper(self, engine: Engine, client: StageClient, registration: Register) -> LoraKeeper:
        """Follow the head's wishes for adapters, and report to it what is held."""

        async def call(method: str, *args: Any) -> list[Any]:
            return await asyncio.wrap_future(engine.collective_rpc(method, CALL_SECONDS, args))

        def report(held: HeldLoras) -> None:
            card = replace(registration.card, loras=held.loaded)
            client.register_again(replace(registration, card=card, loras=held))

        keeper = LoraKeeper(self._config.engine.loras, call, self._server.uses_lora, report)
        self._server.on_loras = keeper.want
        return keeper

    async def _registration(self, card: ModelCard, digest: str) -> Register:
        return Register(
            stage_id=self._config.stage_id,
            uid=secrets.token_hex(8),
            address=tcp_address(await self._address(), self._config.data_port),
            engine=self._config.engine.kind,
            digest=digest,
            card=card,
            capacity=self._config.engine.max_num_seqs,
            host=socket.gethostname(),
            loras=HeldLoras(loras=tuple(LoraState(lora, "flag", "loaded") for lora in self._config.engine.loras)),
        )

    async def _address(self) -> str:
        """The address where heads reach this replica; retries until the head's name can be resolved."""
        while self._config.address is None:
            try:
                return await asyncio.to_thread(
                    local_address_towards, self._config.master_address, self._config.master_port
                )
            except OSError as error:
                log.info("the head at %s is not to be found yet: %s", self._config.master_address, error)
                await asyncio.sleep(ADDRESS_RETRY_SECONDS)
        return self._config.address

    async def _drain(self, client: StageClient) -> None:
        self._state = ReplicaState.DRAINING
        self._report("draining")
        self._server.stop_accepting()
        began = time.monotonic()
        await client.report_now()
        left = self._config.drain_timeout - self._hand_back_seconds - (time.monotonic() - began)
        if not await self._server.drain(max(0.0, left)):
            log.warning("not everything ended within %.0f s; the rest was handed back", left)
        self._state = ReplicaState.DOWN
        await client.report_now()

    def _end(self, engine: Engine) -> int:
        if self._failure is None:
            code = 0
            self._report("stopped")
        else:
            code = 1
            self._report("failed", reason=self._failure)
        if not engine.stop(0.0 if self._is_stuck else self._hand_back_seconds) or self._failure is not None:
            os._exit(code)  # a step that does not end, or the cleanup of a broken device, would keep this process alive
        return code

    @property
    def _hand_back_seconds(self) -> float:
        return min(MAX_HAND_BACK_SECONDS, self._config.drain_timeout / 4)

    def _on_membership(self, membership: RegistrationStatus) -> None:
        registered = membership.is_registered(time.monotonic())
        self._report("membership", registered=registered, id=membership.replica_id, refusal=membership.refusal)

    def _on_engine_failure(self, error: Exception) -> None:
        self._failure = f"the engine failed: {error!r}"
        self._loop.call_soon_threadsafe(self._stop.set)

    async def _watch_steps(self, engine: Engine, card: ModelCard) -> None:
        """End the replica if a step takes longer than --step-timeout. In request mode a step may take any time."""
        longest = self._config.engine.step_timeout
        stuck_seconds, step = 0.0, engine.steps
        while stuck_seconds <= longest:
            before = time.monotonic()
            await asyncio.sleep(STEP_CHECK_SECONDS)
            # Capped, because a process that was suspended (SIGSTOP) is not stuck.
            passed = min(time.monotonic() - before, 2 * STEP_CHECK_SECONDS)
            is_same_step = engine.seconds_in_step > passed and engine.steps == step and card.mode != "request"
            stuck_seconds, step = stuck_seconds + passed if is_same_step else 0.0, engine.steps
        self._is_stuck = True
        self._failure = f"a step did not end within {longest:g} s (--step-timeout)"
        self._stop.set()


def main() -> int:
    """Read the configuration and run the replica. Reports a CommandError, such as a failure to load, as one event."""
    report = Reporter()
    line = sys.stdin.buffer.readline()
    if not line:
        return 1  # the supervisor has ended
    config = ReplicaConfig.decode(line)
    configure_logging(config.log_level, f"replica {config.index}")
    # Before this process has threads, and with the modules that it has been forked with, if it was.
    has_workers = config.engine.processes > 1 and IS_SUPPORTED
    fork_server = ForkServer.forked(["omni_worker.engine.build", WORKER]) if has_workers else None
    end_with_parent()
    try:
        return asyncio.run(_run(config, report, fork_server))
    except CommandError as error:
        report("failed", reason=str(error))
        return 1


async def _run(config: ReplicaConfig, report: Reporter, fork_server: ForkServer | None) -> int:
    return await ReplicaProcess(config, report, fork_server).run()


if __name__ == "__main__":
    sys.exit(main())
