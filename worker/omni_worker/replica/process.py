"""The main of a replica process: `python -m omni_worker.replica.process`, with its ReplicaConfig as JSON on stdin.

It tells its supervisor what happens as JSON lines on stdout (see `report`); whatever else would print there goes to
stderr. It ends when its stdin closes, for then the supervisor is gone. SIGTERM drains.
"""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from omni_worker.config import model_source
from omni_worker.config.records import ReplicaConfig
from omni_worker.coordinator.messages import Register, State
from omni_worker.coordinator.stage_client import Membership, StageClient
from omni_worker.errors import CommandError
from omni_worker.model_card import ModelCard
from omni_worker.parallel.child_process import end_with_parent
from omni_worker.replica.server import ALIVE_SECONDS, ReplicaServer
from omni_worker.requests import GenerationParams, SamplingParams
from omni_worker.telemetry import tracing
from omni_worker.telemetry.logs import configure_logging
from omni_worker.transport import keys
from omni_worker.transport.sockets import own_address_towards

if TYPE_CHECKING:
    from omni_worker.replica.phases import Phases

log = logging.getLogger(__name__)
STATS_SECONDS = 1.0
MOST_HAND_BACK_SECONDS = 5.0  # of the drain timeout, for handing back what has not ended, and for the last step
WARM_UP_PROMPT = "warm-up"
WARM_UP_SIDE = 512  # of a picture to start from
WARM_UP_SIZES = (2, 4, 8)
WARM_UP_SECONDS = 20.0


class Report:
    """The line to the supervisor: one JSON object a line, each with an `event`."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def __call__(self, event: str, **fields: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"event": event, **fields}), file=self._stream, flush=True)


class ReplicaProcess:
    """Load → warm up → register → serve → drain."""

    def __init__(self, config: ReplicaConfig, report: Report) -> None:
        self._config = config
        self._report = report
        self._state = State.STARTING
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._failure: str | None = None
        self._is_stuck = False
        self._keys = keys.read(config.secret_file)
        self._tracing = tracing.start(config.traces_endpoint, "replica")
        self._phases: Phases | None = None
        if self._tracing.is_on:
            from omni_worker.replica import phases  # here, for it needs torch

            self._phases = phases.Phases(self._tracing)
        self._server = ReplicaServer(config.engine.max_num_seqs, self._keys, self._phases)

    async def run(self) -> int:
        """Until told to stop; returns the exit code. Ends the process itself where the engine does not end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._server.bind(self._config.bind_host, self._config.data_port)
        self._report("loading")
        card, digest = await asyncio.to_thread(self._load)
        async with asyncio.TaskGroup() as group:
            serving = [group.create_task(self._server.run())]
            await self._warm_up(card)
            self._report("loaded", pipeline=card.pipeline, mode=card.mode)
            self._state = State.UP
            client = StageClient(
                await self._hello(card, digest),
                self._config.master_address,
                self._config.master_port,
                state=lambda: self._state,
                load=lambda: self._server.load,
                on_change=self._on_membership,
                keys=self._keys,
            )
            works = client.run(), self._send_stats(), self._watch_steps(card), self._tell_of_life()
            serving += [group.create_task(work) for work in works]
            await self._stop.wait()
            if self._failure is None:
                await self._drain(client)
            for task in serving:
                task.cancel()
        await asyncio.to_thread(self._tracing.close)
        return self._end()

    def _end(self) -> int:
        assert self._server.engine is not None
        if self._failure is None:
            code = 0
            self._report("stopped")
        else:
            code = 1
            self._report("failed", reason=self._failure)
        if not self._server.engine.stop(0.0 if self._is_stuck else self._hand_back_seconds):
            os._exit(code)  # its thread is in a step that does not end, and would keep this process
        return code

    def _load(self) -> tuple[ModelCard, str]:
        # Imported here: torch takes seconds, and the supervisor is told that loading has begun before that.
        from omni_worker.engine.build import build_engine

        source = model_source.parse(self._config.model, self._config.revision)
        on_step = None if self._phases is None else self._phases.record_step
        engine, card = build_engine(
            self._config.engine, source, self._server.on_event, self._on_engine_failure, on_step
        )
        self._server.engine = engine
        self._server.default_steps = card.defaults.num_inference_steps or 0
        engine.start()
        return card, source.digest

    async def _warm_up(self, card: ModelCard) -> None:
        """Some requests at once: loads lazily built parts, and proves that the common calls can be batched."""
        began = time.monotonic()
        if not self._config.engine.text_encoder:
            return  # only the stage before can say what its embeddings look like
        most = 1 if card.mode == "request" else self._config.engine.max_num_seqs
        for count in sorted({min(size, most) for size in WARM_UP_SIZES}):
            log.info("warming up: %d at once", count)
            params = [_warm_up_params(card, seed) for seed in range(count)]
            ended = await asyncio.gather(*(self._server.run_here(f"warm-up-{count}-{p.seed}", p) for p in params))
            for error in {str(event.error) for event in ended if event.error}:
                log.warning("the warm-up of %s failed: %s", card.pipeline, error)
            if time.monotonic() - began > WARM_UP_SECONDS:
                break  # larger batches are proven when they are first met
        log.info("warmed up in %.1f s", time.monotonic() - began)

    async def _hello(self, card: ModelCard, digest: str) -> Register:
        return Register(
            stage_id=self._config.stage_id,
            uid=secrets.token_hex(8),
            address=f"tcp://{await self._address()}:{self._config.data_port}",
            engine=self._config.engine.kind,
            digest=digest,
            card=card,
            capacity=self._config.engine.max_num_seqs,
            host=socket.gethostname(),
        )

    async def _address(self) -> str:
        while self._config.address is None:
            try:
                return await asyncio.to_thread(
                    own_address_towards, self._config.master_address, self._config.master_port
                )
            except OSError as error:
                log.info("the head at %s is not to be found yet: %s", self._config.master_address, error)
                await asyncio.sleep(1.0)
        return self._config.address

    async def _drain(self, client: StageClient) -> None:
        self._state = State.DRAINING
        self._report("draining")
        self._server.is_draining = True
        began = time.monotonic()
        await client.report_now()
        left = self._config.drain_timeout - self._hand_back_seconds - (time.monotonic() - began)
        if not await self._server.drain(max(0.0, left)):
            log.warning("not everything ended within %.0f s; the rest was handed back", left)
        self._state = State.DOWN
        await client.report_now()

    @property
    def _hand_back_seconds(self) -> float:
        return min(MOST_HAND_BACK_SECONDS, self._config.drain_timeout / 4)

    def _on_membership(self, membership: Membership) -> None:
        registered = membership.is_registered(time.monotonic())
        self._report("membership", registered=registered, id=membership.replica_id, refusal=membership.refusal)

    def _on_engine_failure(self, error: Exception) -> None:
        self._failure = f"the engine failed: {error!r}"
        self._loop.call_soon_threadsafe(self._stop.set)

    async def _watch_steps(self, card: ModelCard) -> None:
        """End a replica that is stuck in a step. One that runs requests whole has steps of any length."""
        engine, longest = self._server.engine, self._config.engine.step_timeout
        assert engine is not None
        watched, step = 0.0, engine.steps
        while watched <= longest:
            before = time.monotonic()
            await asyncio.sleep(STATS_SECONDS)
            passed = min(time.monotonic() - before, 2 * STATS_SECONDS)  # a process that was stopped was not stuck
            is_same = engine.seconds_in_step > passed and engine.steps == step and card.mode != "request"
            watched, step = watched + passed if is_same else 0.0, engine.steps
        self._is_stuck = True
        self._failure = f"a step did not end within {longest:g} s (--step-timeout)"
        self._stop.set()

    async def _tell_of_life(self) -> None:
        """Tell the supervisor every second that this loop turns, whatever the engine is doing."""
        while True:
            self._report("alive")
            await asyncio.sleep(ALIVE_SECONDS)

    async def _send_stats(self) -> None:
        from omni_worker.replica.batch_report import BatchReport  # here, for it needs torch

        batches = BatchReport()
        while True:
            engine = self._server.engine
            assert engine is not None
            try:
                runner = (await asyncio.wrap_future(engine.collective_rpc("stats", 60.0)))[0]
            except TimeoutError:
                continue  # it is at a long step
            scheduler = engine.scheduler_stats
            load = self._server.load
            self._report(
                "stats",
                engine_steps=engine.steps,
                engine_step_seconds=round(engine.step_seconds, 3),
                waiting=load.queue_length,
                running=load.running,
                completed=load.completed,
                predicted_wait_seconds=round(scheduler.wait, 3),
                refused=scheduler.refused,
                **batches.of(scheduler.keys),
                **runner,
            )
            await asyncio.sleep(STATS_SECONDS)


def _warm_up_params(card: ModelCard, seed: int) -> GenerationParams:
    """A short request that the model can take."""
    params = GenerationParams(prompt=WARM_UP_PROMPT, steps=2, seed=seed, sampling=SamplingParams(max_tokens=2))
    if not card.needs_image:
        return params
    side = card.defaults.width or WARM_UP_SIDE
    return msgspec.structs.replace(
        params,
        images=[np.full((side, side, 3), 128, np.uint8)],
        mask=np.full((side, side), 255, np.uint8) if card.mask else None,
        strength=1.0 if card.strength else None,
    )


def main() -> int:
    """Read the configuration, run, and report a failure to load as one line."""
    report = Report()
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=ReplicaConfig)
    configure_logging(config.log_level, f"replica {config.index}")
    end_with_parent()
    try:
        return asyncio.run(_run(config, report))
    except CommandError as error:
        report("failed", reason=str(error))
        return 1


async def _run(config: ReplicaConfig, report: Report) -> int:
    return await ReplicaProcess(config, report).run()


if __name__ == "__main__":
    sys.exit(main())
