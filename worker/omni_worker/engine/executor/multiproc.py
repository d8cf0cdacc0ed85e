"""The executor for a replica of several processes: a rank each, every one with a whole runner.

All ranks run every message, in step, and divide only the model calls among them. So what is left of a group cannot go
on: a worker that dies, fails as a whole, or outlasts the timeout takes the others with it. One that dies while nothing
runs is noticed too.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from omni_worker.engine.executor.channel import CallMethod, Execute, WorkerReply
from omni_worker.engine.executor.interface import Executor, ExecutorFailed
from omni_worker.engine.executor.launch import RunnerSpec
from omni_worker.engine.executor.worker_group import WorkerGroup
from omni_worker.engine.scheduler import RequestOutput, RunnerOutput, SchedulerOutput

__all__ = ["MultiprocExecutor", "RunnerSpec"]

GRACE_SECONDS = 5.0
OBITUARY_SECONDS = 0.2
BUILT = 0  # the number of the answer that a worker gives unasked, when its runner is built


class MultiprocExecutor(Executor):
    """Runs `runner` in `size` processes. `card` is what its factory said of it in the first.

    `timeout` bounds one `execute`, end to end, in seconds. The constructor raises what the factory raised in any of
    them (LoadError), and ExecutorFailed where one died.
    """

    def __init__(self, runner: RunnerSpec, size: int, timeout: float = 600.0) -> None:
        self._timeout = timeout
        self._size = size
        self._number = BUILT
        self._workers = WorkerGroup(runner, size)
        try:
            answers = self._answers(BUILT, None, wait_for_all=False)
            if failed := _first_error(answers):
                raise self._failed(*failed) if self._workers.death(OBITUARY_SECONDS) else failed[1]
        except BaseException:
            self._workers.kill()
            raise
        self.card: Any = answers[0].value

    @property
    def pids(self) -> list[int]:
        """The workers' process ids in rank order."""
        return self._workers.pids

    def watch(self, on_failure: Callable[[ExecutorFailed], None]) -> None:
        self._workers.watch(lambda obituary: on_failure(ExecutorFailed(obituary)))

    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        try:
            answers = self._answers(self._send(Execute, output), self._timeout, wait_for_all=False)
            if failed := _first_error(answers):
                raise self._failed(*failed)
            if len(answers) < self._size:
                silent = [rank for rank in range(self._size) if rank not in answers]
                raise ExecutorFailed(f"ranks {silent} did not end a step within {self._timeout:g} s")
        except ExecutorFailed:
            self._workers.kill()
            raise
        return _agreed([answers[rank].value for rank in range(self._size)])

    def collective_rpc(self, method: str, args: tuple[Any, ...], timeout: float) -> list[Any]:
        try:
            answers = self._answers(self._send(CallMethod, method, args), timeout, wait_for_all=True)
        except ExecutorFailed:
            self._workers.kill()
            raise
        if failed := _first_error(answers):
            rank, error = failed
            error.add_note(f"raised by {method} on rank {rank} of {self._size}")
            raise error
        if len(answers) < self._size:
            silent = [rank for rank in range(self._size) if rank not in answers]
            raise TimeoutError(f"{method}: ranks {silent} did not answer within {timeout:g} s")
        return [answers[rank].value for rank in range(self._size)]

    def shutdown(self) -> None:
        self._workers.stop(GRACE_SECONDS)

    def _send(self, message: Callable[..., Any], *fields: Any) -> int:
        if self._workers.have_ended:
            raise ExecutorFailed("the workers have ended")
        self._number += 1
        self._workers.send(message(self._number, *fields))
        return self._number

    def _answers(self, number: int, timeout: float | None, wait_for_all: bool) -> dict[int, WorkerReply]:
        """Each rank's answer to the message with this number, or those that came by `timeout`, or by the first error.

        Late answers to calls that were given up before are passed over. Raises ExecutorFailed where a worker is dead.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        answers: dict[int, WorkerReply] = {}
        while len(answers) < self._size and (wait_for_all or not _first_error(answers)):
            received = self._workers.receive(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if not received:
                break
            answers.update((rank, answer) for rank, answer in received if answer.number == number)
        return answers

    def _failed(self, rank: int, error: Exception) -> ExecutorFailed:
        """A rank that loses another one fails too: then that other one's death is the reason."""
        obituary = self._workers.death(OBITUARY_SECONDS)
        failure = ExecutorFailed(obituary or f"the worker of rank {rank} failed: {type(error).__name__}: {error}")
        failure.__cause__ = error
        return failure


def _first_error(answers: dict[int, WorkerReply]) -> tuple[int, Exception] | None:
    for rank in sorted(answers):
        if (error := answers[rank].error) is not None:
            return rank, error
    return None


def _agreed(outputs: list[RunnerOutput]) -> RunnerOutput:
    """What the rank that answers says of each request, or its failure on any rank: all drop its state then."""
    entries: dict[str, RequestOutput] = {}
    for one in (one for output in outputs for one in output.outputs):
        if one.id not in entries or (one.error is not None and entries[one.id].error is None):
            entries[one.id] = one
    seconds = (output.call_seconds for output in outputs if output.call_seconds is not None)
    return replace(
        outputs[0],
        outputs=tuple(entries.values()),
        call_seconds=next(seconds, None),
        out_of_memory=any(output.out_of_memory for output in outputs),
    )
