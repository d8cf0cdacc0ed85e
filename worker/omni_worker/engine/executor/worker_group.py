"""The worker processes of an executor: starts them, sends to all, receives from each, and notices when one dies.

Nothing outlives this object or its process, however that ends: the workers read a pipe that closes then, and the shared
memory and the sockets have no names in the file system.
"""

import math
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import zmq

from omni_worker.engine.executor import launch
from omni_worker.engine.executor.channel import Stop, WorkerReply, decode, encode, make_socket, new_endpoint
from omni_worker.engine.executor.interface import ExecutorFailed
from omni_worker.engine.executor.launch import Files, RunnerSpec, WorkerProcess, WorkerSetup
from omni_worker.parallel.fork_server import ForkServer
from omni_worker.transport.shared_memory import Reader, Writer, create_pool

DEATH_SECONDS = 0.2  # a process may live a moment longer than its connection


class WorkerHandle(NamedTuple):
    """One rank. `death` is a descriptor that is readable once the process is dead."""

    rank: int
    process: WorkerProcess
    death: int
    socket: "zmq.Socket[Any]"
    results: Reader

    @property
    def cause_of_death(self) -> str:
        """How the process died, for an error message."""
        code = self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"the worker of rank {self.rank} (process {self.process.pid}) {how}"


class WorkerGroup:
    """`size` processes with one runner each. One thread uses it; `watch` starts another one."""

    def __init__(self, runner: RunnerSpec, size: int, fork_server: ForkServer | None = None) -> None:
        self._fork_server = fork_server
        self._context = zmq.Context()
        self._ended = os.eventfd(0, os.EFD_CLOEXEC)
        self._watcher: threading.Thread | None = None
        self._workers: list[WorkerHandle] = []
        self.have_ended = False
        broadcast, store = create_pool(), os.memfd_create("omni-store", os.MFD_CLOEXEC)
        self._broadcast = Writer(broadcast, readers=size)
        try:
            self._start(runner, size, broadcast, store)
        except BaseException:
            self.kill()
            raise
        finally:
            os.close(broadcast)
            os.close(store)
        self._poller = zmq.Poller()
        for worker in self._workers:
            self._poller.register(worker.socket, zmq.POLLIN)
            self._poller.register(worker.death, zmq.POLLIN)

    @property
    def pids(self) -> list[int]:
        """The process ids in rank order."""
        return [worker.process.pid for worker in self._workers]

    def send(self, message: Any) -> None:
        """Send to all ranks without waiting. Raises ExecutorFailed if a rank can no longer be reached, after the others
        have got it, and what pickle raises if the message cannot be pickled, before any rank gets it.
        """
        data = encode(message, self._broadcast)
        unreachable = []
        for worker in self._workers:
            try:
                worker.socket.send(data, zmq.DONTWAIT)
            except zmq.Again:  # its connection is gone; a send that waits would never return
                unreachable.append(worker.rank)
        if unreachable:
            raise ExecutorFailed(self.death(DEATH_SECONDS) or f"the workers of ranks {unreachable} are disconnected")

    def receive(self, timeout: float | None) -> list[tuple[int, WorkerReply]]:
        """The next replies with the ranks that sent them; none if `timeout` seconds pass without one.

        Raises ExecutorFailed if a worker is dead.
        """
        ready = dict(self._poller.poll(None if timeout is None else math.ceil(timeout * 1e3)))
        received = [
            (worker.rank, decode(worker.socket.recv(), worker.results))
            for worker in self._workers
            if worker.socket in ready
        ]
        if not received:
            for worker in self._workers:
                if worker.death in ready:
                    raise ExecutorFailed(worker.cause_of_death)
        return received

    def death(self, timeout: float) -> str | None:
        """How the first dead worker died; None if no worker is dead or dies within `timeout` seconds."""
        ready = select.select([worker.death for worker in self._workers], [], [], timeout)[0]
        return next((worker.cause_of_death for worker in self._workers if worker.death in ready), None)

    def watch(self, on_death: Callable[[str], None]) -> None:
        """As soon as a worker dies, kill the others and call `on_death` from a thread of its own."""
        self._watcher = threading.Thread(target=self._watch, args=(on_death,), name="executor-watch", daemon=True)
        self._watcher.start()

    def stop(self, grace: float) -> None:
        """Ask all workers to end, and kill those that have not ended within `grace` seconds."""
        if self.have_ended:
            return
        self._stop_watching()
        with suppress(ExecutorFailed):
            self.send(Stop())
        deadline = time.monotonic() + grace
        for worker in self._workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """Kill all workers, and free their resources and this object's."""
        if self.have_ended:
            return
        self.have_ended = True
        self._stop_watching()
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            with suppress(BrokenPipeError), worker.process:
                pass  # waits, and closes what belongs to it
            os.close(worker.death)
            worker.socket.close()
            worker.results.close()
        self._workers.clear()  # only results that are still in use keep their memory
        self._broadcast.close()
        self._context.destroy(linger=0)
        os.close(self._ended)

    def _start(self, runner: RunnerSpec, size: int, broadcast: int, store: int) -> None:
        devices, (seed, hash_seed) = launch.devices_of(size), launch.new_seeds()
        for rank in range(size):
            endpoint, results = new_endpoint(), create_pool()
            socket = make_socket(self._context)
            socket.set(zmq.IPC_FILTER_UID, os.getuid())
            socket.bind(endpoint)
            try:
                reader = Reader(results, readers=1)
                setup = WorkerSetup(rank, size, endpoint, seed, runner, launch.log_level())
                files = Files(broadcast, results, store)
                process = launch.start(setup, files, hash_seed, devices, self._fork_server)
            finally:
                os.close(results)
            self._workers.append(WorkerHandle(rank, process, launch.end_of(process), socket, reader))

    def _watch(self, on_death: Callable[[str], None]) -> None:
        deaths = {worker.death: worker for worker in self._workers}
        ready = select.select([self._ended, *deaths], [], [])[0]
        if self._ended not in ready:
            cause = deaths[ready[0]].cause_of_death
            for worker in self._workers:
                worker.process.kill()
            on_death(cause)

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            os.eventfd_write(self._ended, 1)
            if self._watcher is not threading.current_thread():
                self._watcher.join()
            self._watcher = None
