"""The executor for a replica of several processes: each is one rank, with a complete runner.

All ranks run every message in lockstep and divide only the model calls. So a group cannot continue without one of its
ranks: if a worker dies, fails as a whole, or exceeds the timeout, the executor kills the others. It also notices a
worker that dies while nothing runs.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from omni_worker.engine.executor.channel import CallMethod, Execute, WorkerReply
from omni_worker.engine.executor.interface import Executor, ExecutorFailed
from omni_worker.engine.executor.launch import RunnerSpec
from omni_worker.engine.executor.worker_group import DEATH_SECONDS, WorkerGroup
from omni_worker.engine.scheduler import RequestOutput, RunnerOutput, SchedulerOutput
from omni_worker.parallel.fork_server import ForkServer

__all__ = ["MultiprocExecutor", "RunnerSpec"]

GRACE_SECONDS = 5.0
BUILT = 0  # the number of the reply that a worker sends, without a message, when it has built its runner


class MultiprocExecutor(Executor):
    """Runs `runner` in `size` processes. `card` is the second result of its factory in the first process.

    `timeout` limits one `execute`, end to end, in seconds. The `fork_server`, if there is one, starts the processes.
    The constructor raises what the factory raised in any of the
    processes (LoadError), and ExecutorFailed if one died.
    """

    def __init__(
        self, runner: RunnerSpec, size: int, timeout: float = 600.0, fork_server: ForkServer | None = None
    ) -> None:
        self._timeout = timeout
        self._size = size
        self._number = BUILT
        self._workers = WorkerGroup(runner, size, fork_server)
        try:
            replies = self._replies(BUILT, None, wait_for_all=False)
            if failed := _first_error(replies):
                raise self._failed(*failed) if self._workers.death(DEATH_SECONDS) else failed[1]
        except BaseException:
            self._workers.kill()
            raise
        self.card: Any = replies[0].value

    @property
    def pids(self) -> list[int]:
        """The workers' process ids in rank order."""
        return self._workers.pids

    def watch(self, on_failure: Callable[[ExecutorFailed], None]) -> None:
        self._workers.watch(lambda reason: on_failure(ExecutorFailed(reason)))

    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        try:
            replies = self._replies(self._send(Execute, output), self._timeout, wait_for_all=False)
            if failed := _first_error(replies):
                raise self._failed(*failed)
            if len(replies) < self._size:
                silent = [rank for rank in range(self._size) if rank not in replies]
                raise ExecutorFailed(f"ranks {silent} did not end a step within {self._timeout:g} s")
        except ExecutorFailed:
            self._workers.kill()
            raise
        return _merged([replies[rank].value for rank in range(self._size)])

    def collective_rpc(self, method: str, args: tuple[Any, ...], timeout: float) -> list[Any]:
        try:
            replies = self._replies(self._send(CallMethod, method, args), timeout, wait_for_all=True)
        except ExecutorFailed:
            self._workers.kill()
            raise
        if failed := _first_error(replies):
            rank, error = failed
            error.add_note(f"raised by {method} on rank {rank} of {self._size}")
            raise error
        if len(replies) < self._size:
            silent = [rank for rank in range(self._size) if rank not in replies]
            raise TimeoutError(f"{method}: ranks {silent} did not answer within {timeout:g} s")
        return [replies[rank].value for rank in range(self._size)]

    def shutdown(self) -> None:
        self._workers.stop(GRACE_SECONDS)

    def _send(self, message: Callable[..., Any], *fields: Any) -> int:
        if self._workers.have_ended:
            raise ExecutorFailed("the workers have ended")
        self._number += 1
        self._workers.send(message(self._number, *fields))
        return self._number

    def _replies(self, number: int, timeout: float | None, wait_for_all: bool) -> dict[int, WorkerReply]:
        """The ranks' replies to the message with this number, until `timeout` or, without `wait_for_all`, an error.

        Ignores late replies to messages that timed out. Raises ExecutorFailed if a worker is dead.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: dict[int, WorkerReply] = {}
        while len(replies) < self._size and (wait_for_all or not _first_error(replies)):
            received = self._workers.receive(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if not received:
                break
            replies.update((rank, reply) for rank, reply in received if reply.number == number)
        return replies

    def _failed(self, rank: int, error: Exception) -> ExecutorFailed:
        """The failure of a rank. If another rank died, that is the reason: the ranks that wait for it fail too."""
        death = self._workers.death(DEATH_SECONDS)
        failure = ExecutorFailed(death or f"the worker of rank {rank} failed: {type(error).__name__}: {error}")
        failure.__cause__ = error
        return failure


def _first_error(replies: dict[int, WorkerReply]) -> tuple[int, Exception] | None:
    for rank in sorted(replies):
        if (error := replies[rank].error) is not None:
            return rank, error
    return None


def _merged(outputs: list[RunnerOutput]) -> RunnerOutput:
    """The answering rank's entry for each request, or its failure on any rank. All ranks drop the state of failures."""
    entries: dict[str, RequestOutput] = {}
    for one in (one for output in outputs for one in output.outputs):
        if one.id not in entries or (one.error is not None and entries[one.id].error is None):
            entries[one.id] = one
    timed = (output.timed for output in outputs if output.timed is not None)
    return replace(
        outputs[0],
        outputs=tuple(entries.values()),
        timed=next(timed, None),
        out_of_memory=any(output.out_of_memory for output in outputs),
    )
