"""Replicas without a model: real servers, engines and memberships, whose steps only take time. Many fit one process.

python -m benchmarks.sleeping --master-port PORT --data-port PORT --count N [--step-seconds 0.1]
"""

import argparse
import asyncio
import time
from typing import Any

import numpy as np

from omni_worker.config import model_source
from omni_worker.coordinator.messages import Register, ReplicaState
from omni_worker.coordinator.stage_client import StageClient
from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.runner import Runner
from omni_worker.engine.scheduler import RequestOutput, RunnerOutput, SchedulerOutput, StepScheduler
from omni_worker.model_card import ModelCard
from omni_worker.replica.server import ReplicaServer
from omni_worker.requests import GenerationResult

MODEL = "builtin://digits"
CARD = ModelCard(pipeline="Sleeping", mode="step", sized=True, guidance=True, negative_prompt=True)
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


class SleepingRunner(Runner):
    """Each step of a batch takes `seconds`; a request gives a picture of 32x32 pixels in the end."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._steps: dict[str, list[int]] = {}

    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        for id in output.finished:
            self._steps.pop(id, None)
        for request in output.new:
            self._steps[request.id] = [0, request.payload.steps or 1]
        if output.cached and self._seconds:
            time.sleep(self._seconds)
        for id in output.cached:
            self._steps[id][0] += 1
        ids = (*(request.id for request in output.new), *output.cached)
        return RunnerOutput(output.step_id, tuple(self._outcome(id) for id in ids))

    def _outcome(self, id: str) -> RequestOutput:
        step, steps = self._steps[id]
        result = GenerationResult(images=[PICTURE], steps=steps) if step == steps else None
        return RequestOutput(id, None if result else "step", step=step, total_steps=steps, result=result)

    def stats(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self._steps.clear()


async def serve(number: int, args: argparse.Namespace) -> None:
    """One replica, for ever."""
    server = ReplicaServer(args.max_num_seqs)
    executor = UniProcExecutor(SleepingRunner(args.step_seconds))
    server.engine = Engine(StepScheduler(args.max_num_seqs), executor, server.on_event)
    server.engine.start()
    server.bind("127.0.0.1", args.data_port + number)
    address = f"tcp://127.0.0.1:{args.data_port + number}"
    hello = Register(
        stage_id=0, uid=address, address=address, engine="diffusion", digest=model_source.parse(MODEL).digest, card=CARD
    )
    client = StageClient(
        hello,
        "127.0.0.1",
        args.master_port,
        state=lambda: ReplicaState.UP,
        load=lambda: server.load,
        on_change=lambda membership: None,
    )
    await asyncio.gather(server.run(), client.run())


async def run(args: argparse.Namespace) -> None:
    """All of them."""
    await asyncio.gather(*(serve(number, args) for number in range(args.count)))


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--master-port", type=int, required=True)
    parser.add_argument("--data-port", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--step-seconds", type=float, default=0.1)
    parser.add_argument("--max-num-seqs", type=int, default=1)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
