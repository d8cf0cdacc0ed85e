"""The main module of a worker process: `python -m omni_worker.engine.executor.worker FILES`, a WorkerSetup on stdin.

Every rank builds the same runner and runs the same messages. Only the calls that the runner spreads over its ranks are
divided. The runner's answering rank sends the outputs; the others only send failures. The process ends when its stdin
closes, because then the executor has ended. It ignores SIGINT and SIGTERM: the executor handles those.
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
from omni_worker.engine.executor.launch import Files, WorkerSetup
from omni_worker.engine.runner import Runner
from omni_worker.engine.scheduler import RequestOutput, RunnerOutput
from omni_worker.errors import portable
from omni_worker.importing import importing
from omni_worker.parallel.child_process import end_with_parent
from omni_worker.parallel.ranks import Ranks
from omni_worker.telemetry.logs import configure_logging
from omni_worker.transport.shared_memory import Reader, Writer

log = logging.getLogger(__name__)


class WorkerLoop:
    """One rank: receives a message, runs it and replies, one message after another."""

    def __init__(self, setup: WorkerSetup, files: Files) -> None:
        self._setup, self._store = setup, files.store
        self._is_answering = False
        self._broadcast = Reader(files.broadcast, readers=setup.size, number=setup.rank)
        self._results = Writer(files.results, readers=1)
        for descriptor in (files.broadcast, files.results):
            os.close(descriptor)
        self._socket = make_socket(zmq.Context.instance())
        self._socket.connect(setup.endpoint)

    def run(self) -> None:
        """Run until a Stop message arrives."""
        try:
            ranks = Ranks.join(self._setup.rank, self._setup.size, f"/proc/self/fd/{self._store}")
            runner, card = self._build(ranks)
            self._is_answering = runner.answering_rank == ranks.rank
        except Exception as error:
            self._send(WorkerReply(0, error=_portable_with_traceback(error)))
            self._receive()
            return
        self._send(WorkerReply(0, card if ranks.rank == 0 else None))
        while not isinstance(message := self._receive(), Stop):
            reply = self._reply(runner, message)
            del message  # frees its place in shared memory for the next one
            self._send(reply)
        runner.close()
        ranks.close()

    def _build(self, ranks: Ranks) -> tuple[Runner, Any]:
        module, _, function = self._setup.runner.factory.partition(":")
        with importing():
            build = getattr(importlib.import_module(module), function)
        runner, card = build(ranks, *self._setup.runner.args)
        return runner, card

    def _reply(self, runner: Runner, message: Execute | CallMethod) -> WorkerReply:
        try:
            if isinstance(message, Execute):
                return WorkerReply(message.number, self._outcome(runner.execute(message.output)))
            return WorkerReply(message.number, runner.call(message.method, message.args))
        except Exception as error:
            return WorkerReply(message.number, error=_portable_with_traceback(error))

    def _outcome(self, output: RunnerOutput) -> RunnerOutput:
        """What this rank sends: all outputs if it is the answering rank, otherwise only failures."""
        entries = [self._entry(one) for one in output.outputs if self._is_answering or one.error is not None]
        return replace(output, outputs=tuple(entries), timed=output.timed if self._is_answering else None)

    def _entry(self, output: RequestOutput) -> RequestOutput:
        return replace(output, error=None if output.error is None else portable(output.error))

    def _receive(self) -> Any:
        return decode(self._socket.recv(), self._broadcast)

    def _send(self, message: WorkerReply) -> None:
        try:
            data = encode(message, self._results)
        except Exception as error:  # pickle may raise anything for a value that it cannot pickle
            data = encode(WorkerReply(message.number, error=_portable_with_traceback(error)), self._results)
        self._socket.send(data)


def _portable_with_traceback(error: Exception) -> Exception:
    """A copy of the error that can be pickled, with its traceback and its causes in a note."""
    text = "".join(traceback.format_exception(error))
    sent = portable(error)
    sent.add_note(text.rstrip())
    return sent


def main() -> int:
    """Read the setup and serve the executor; returns the exit code."""
    files = Files(*map(int, sys.argv[1:]))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    setup: WorkerSetup = pickle.load(sys.stdin.buffer)
    end_with_parent()
    configure_logging(setup.log_level, f"rank {setup.rank}")
    torch.manual_seed(setup.seed)
    WorkerLoop(setup, files).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
