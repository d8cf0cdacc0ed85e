"""What a replica process reports to its supervisor: events, liveness and statistics.

A report is one line of JSON on the process's stdout: the name of the event in the field `event`, and the fields of its
record in `reports`. Reports go to the supervisor only; the coordinator gets its own messages from
`coordinator.stage_client`.
"""

import asyncio
import contextlib
import json
import os
from typing import Any

from omni_worker.engine.engine import Engine
from omni_worker.replica.batch_report import BatchReport
from omni_worker.replica.server import ALIVE_SECONDS, ReplicaServer

STATS_SECONDS = 1.0
STATS_TIMEOUT_SECONDS = 60.0


class Reporter:
    """Writes events to the supervisor. Create it first: it redirects everything else that prints to stderr."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def __call__(self, event: str, **fields: Any) -> None:
        """Write one event. Does nothing if the supervisor no longer reads."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"event": event, **fields}), file=self._stream, flush=True)


async def report_liveness(report: Reporter) -> None:
    """Report every second that the event loop runs, whatever the engine does. Runs until it is cancelled."""
    while True:
        report("alive")
        await asyncio.sleep(ALIVE_SECONDS)


async def report_stats(report: Reporter, server: ReplicaServer, engine: Engine) -> None:
    """Report the counts of engine, scheduler and runner every second. Runs until it is cancelled."""
    batches = BatchReport()
    while True:
        try:
            runner = (await asyncio.wrap_future(engine.collective_rpc("stats", STATS_TIMEOUT_SECONDS)))[0]
        except TimeoutError:
            continue  # the engine is in a long step
        scheduler = engine.scheduler_stats
        load = server.load
        numbers = {
            "engine_steps": engine.steps,
            "engine_step_seconds": round(engine.step_seconds, 3),
            "waiting": load.queue_length,
            "running": load.running,
            "completed": load.completed,
            "predicted_wait_seconds": round(scheduler.wait, 3),
            "refused": scheduler.refused,
            **runner,
        }
        report("stats", numbers=numbers, **batches.of(scheduler.keys))
        await asyncio.sleep(STATS_SECONDS)
