"""A replica of several processes forks them from one that has imported everything, and they end with it."""

import os
import signal

import pytest

from omni_worker.parallel.fork_server import IS_SUPPORTED
from tests.worker.api.heads import head
from tests.worker.engine.executor.process_resources import is_gone
from tests.worker.serving import Process, children, draw, eventually

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not IS_SUPPORTED, reason="there are no fork servers on this system"),
]


def ranks_of(process: Process) -> tuple[int, int, list[int]]:
    """The replica, its fork server, and the processes that this has started."""
    (replica,) = process.replicas
    (fork_server,) = children(replica)
    return replica, fork_server, children(fork_server)


def wait_for_restart(process: Process, replica: int) -> None:
    """Wait until the head's replica is another process and ready."""
    eventually(lambda: process.replicas and process.replicas != [replica], "another replica")
    eventually(process.is_ready, "the head with the other replica")


def test_the_processes_of_a_replica_are_forked_and_end_with_it() -> None:
    with head("builtin://digits", "--cfg-parallel-size", "2") as process:
        before = draw(process.port, seed=5, steps=2)[0]
        replica, fork_server, ranks = ranks_of(process)
        assert len(ranks) == 2
        os.kill(replica, signal.SIGKILL)
        eventually(lambda: all(map(is_gone, (fork_server, *ranks))), "the end of the replica's processes")
        wait_for_restart(process, replica)
        assert draw(process.port, seed=5, steps=2)[0].tobytes() == before.tobytes()
        replica, fork_server, ranks = ranks_of(process)
        os.kill(ranks[1], signal.SIGKILL)
        wait_for_restart(process, replica)
        assert f"the worker of rank 1 (process {ranks[1]}) was killed by SIGKILL" in process.log
        assert draw(process.port, seed=5, steps=2)[0].tobytes() == before.tobytes()
        _, fork_server, ranks = ranks_of(process)
        assert process.stop() == 0
        assert all(map(is_gone, (fork_server, *ranks)))
