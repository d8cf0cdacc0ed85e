"""The main of a worker process: `python -m omni_worker.engine.executor.worker`, with its Setup pickled on stdin.

Every rank builds the same runner and runs the same messages; only the calls that the runner spreads over its ranks are
divided. The runner's answering rank alone sends what came out; the others say which requests failed. It ends when its
stdin closes, for then its executor is gone; signals to the whole group are the executor's to handle.
"""

import importlib
import logging
import os
import pickle
import signal
import sys
import traceback
from dataclasses import replace
from typing import Any

import torch
import zmq

from omni_worker.engine.executor.channel import CallMethod, Execute, Stop, WorkerReply, decode, encode, make_socket
from omni_worker.engine.executor.launch import WorkerSetup
from omni_worker.engine.runner import Runner
from omni_worker.engine.scheduler import RequestOutput, RunnerOutput
from omni_worker.errors import portable
from omni_worker.parallel.child_process import end_with_parent
from omni_worker.parallel.ranks import Ranks
from omni_worker.telemetry.logs import configure_logging
from omni_worker.transport.shared_memory import Reader, Writer

log = logging.getLogger(__name__)


class WorkerLoop:
    """One rank: receive → run → answer, one message after another."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._answers = False
        self._broadcast = Reader(setup.broadcast, readers=setup.size, number=setup.rank)
        self._results = Writer(setup.results, readers=1)
        for descriptor in (setup.broadcast, setup.results):
            os.close(descriptor)
        self._socket = make_socket(zmq.Context.instance())
        self._socket.connect(setup.endpoint)

    def run(self) -> None:
        """Until a Stop comes."""
        try:
            ranks = Ranks.join(self._setup.rank, self._setup.size, f"/proc/self/fd/{self._setup.store}")
            os.close(self._setup.store)
            runner, card = self._build(ranks)
            self._answers = runner.answering_rank == ranks.rank
        except Exception as error:
            self._send(WorkerReply(0, error=_noted(error)))
            self._receive()
            return
        self._send(WorkerReply(0, card if ranks.rank == 0 else None))
        while not isinstance(message := self._receive(), Stop):
            answer = self._answer(runner, message)
            del message  # before the next one is written, so that it can take the same place
            self._send(answer)
        runner.close()
        ranks.close()

    def _build(self, ranks: Ranks) -> tuple[Runner, Any]:
        module, _, function = self._setup.runner.factory.partition(":")
        runner, card = getattr(importlib.import_module(module), function)(ranks, *self._setup.runner.args)
        return runner, card

    def _answer(self, runner: Runner, message: Execute | CallMethod) -> WorkerReply:
        try:
            if isinstance(message, Execute):
                return WorkerReply(message.number, self._outcome(runner.execute(message.output)))
            return WorkerReply(message.number, runner.call(message.method, message.args))
        except Exception as error:
            return WorkerReply(message.number, error=_noted(error))

    def _outcome(self, output: RunnerOutput) -> RunnerOutput:
        """What the executor is sent: all from the rank that answers, from the others the failures."""
        entries = [self._entry(one) for one in output.outputs if self._answers or one.error is not None]
        return replace(output, outputs=tuple(entries), call_seconds=output.call_seconds if self._answers else None)

    def _entry(self, output: RequestOutput) -> RequestOutput:
        return replace(output, error=None if output.error is None else portable(output.error))

    def _receive(self) -> Any:
        return decode(self._socket.recv(), self._broadcast)

    def _send(self, message: WorkerReply) -> None:
        try:
            data = encode(message, self._results)
        except Exception as error:  # whatever pickle says to an answer that it cannot take
            data = encode(WorkerReply(message.number, error=_noted(error)), self._results)
        self._socket.send(data)


def _noted(error: Exception) -> Exception:
    """The error as it can be sent, with where it was raised and its causes in a note."""
    text = "".join(traceback.format_exception(error))
    sent = portable(error)
    sent.add_note(text.rstrip())
    return sent


def main() -> int:
    """Read the setup, and serve the executor."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    setup: WorkerSetup = pickle.load(sys.stdin.buffer)
    end_with_parent()
    configure_logging(setup.log_level, f"rank {setup.rank}")
    torch.manual_seed(setup.seed)
    WorkerLoop(setup).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
