"""A supervisor of real processes without a model: restarts with backoff, their limit, and the drain."""

import argparse
import asyncio
import functools
import itertools
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from omni_worker.config.flags import add_arguments
from omni_worker.config.serve_config import from_arguments
from omni_worker.parallel.fork_server import ForkServer
from omni_worker.replica import restarts, supervisor
from omni_worker.replica.supervisor import ReplicaFailed, Supervisor

pytestmark = pytest.mark.processes


class Supervised:
    """A supervisor of `count` fake replicas of one kind."""

    def __init__(self, kind, tmp_path, count=1, flags=(), fork_server=None):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        flags = ["builtin://digits", "--omni-dp-size-local", str(count), "--drain-timeout", "1", *flags]
        tmp_path.mkdir(exist_ok=True)
        self._record = tmp_path / "record"
        command = (sys.executable, str(Path(__file__).with_name("fake_replica.py")), kind, str(self._record))
        self.supervisor = Supervisor(from_arguments(parser.parse_args(flags)), fork_server, command)

    def started(self, index=0):
        """The process ids and start times of the replica."""
        return [(int(pid), float(at)) for number, pid, at in filter(is_start, self._lines()) if int(number) == index]

    @property
    def drained(self):
        """How many replicas drained."""
        return sum(line == ["drained"] for line in self._lines())

    def _lines(self):
        return [line.split() for line in self._record.read_text().splitlines()] if self._record.exists() else []


def is_start(line):
    return len(line) == 3


def in_loop(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 120))

    return run


async def eventually(check):
    for _ in range(5000):
        if check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not within 100 s")


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(restarts, "FIRST_PAUSE_SECONDS", 0.02)


@in_loop
async def test_a_replica_that_is_killed_is_started_again_and_its_neighbour_is_not(tmp_path, hurried):
    two = Supervised("lives", tmp_path, 2)
    running = asyncio.create_task(two.supervisor.run())
    await eventually(lambda: two.supervisor.are_loaded)
    os.kill(two.started(0)[0][0], signal.SIGKILL)
    await eventually(lambda: len(two.started(0)) == 2 and two.supervisor.children[0].phase == "loaded")
    assert len(two.started(1)) == 1
    assert [child.restarts for child in two.supervisor.children] == [1, 0]
    await two.supervisor.drain()
    await running


@in_loop
async def test_one_that_falls_silent_is_killed_and_started_again_and_one_that_speaks_is_not(
    tmp_path, hurried, monkeypatch, caplog
):
    monkeypatch.setattr(supervisor, "SILENCE_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 0.3)
    kinds = "falls silent", "lives"
    silent, alive = (Supervised(kind, tmp_path / kind, flags=["--step-timeout", "0.2"]) for kind in kinds)
    running = [asyncio.create_task(one.supervisor.run()) for one in (alive, silent)]
    await eventually(lambda: len(silent.started()) == 3)
    assert "it said nothing for 0.5 s" in caplog.text
    assert len(alive.started()) == 1
    for one in (silent, alive):
        await one.supervisor.drain()
    await asyncio.gather(*running)


@in_loop
async def test_one_that_dies_again_and_again_ends_all_when_its_neighbours_have_drained(tmp_path, hurried):
    two = Supervised("the second dies", tmp_path, 2)
    with pytest.raises(ReplicaFailed, match=r"replica 1 died 6 times within 10 minutes, the last time: exit code 7"):
        await two.supervisor.run()
    times = [at for _, at in two.started(1)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert len(gaps) == restarts.MAX_RESTARTS
    assert all(gap >= 0.02 * 2**i for i, gap in enumerate(gaps)), "each pause is twice the last"
    assert two.drained == 1, "its neighbour was let finish"


@in_loop
async def test_one_that_cannot_start_ends_all_at_once_with_its_reason(tmp_path):
    one = Supervised("cannot start", tmp_path)
    with pytest.raises(ReplicaFailed, match="replica 0 could not start: there is no such model"):
        await one.supervisor.run()
    assert len(one.started()) == 1


@in_loop
async def test_a_supervisor_survives_any_line_that_its_child_writes(tmp_path, caplog):
    one = Supervised("babbles", tmp_path)
    running = asyncio.create_task(one.supervisor.run())
    (child,) = one.supervisor.children
    await eventually(lambda: child.stats.numbers == {"waiting": 3.0})
    assert (child.phase, child.is_registered, child.failure, child.restarts) == ("loaded", False, None, 0)
    assert "replica 0 wrote what is no report: b'Downloading: 100%'" in caplog.text
    assert max(map(len, caplog.messages)) < 1000
    await one.supervisor.drain()
    await running


@in_loop
async def test_one_that_does_not_drain_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 0.2)
    one = Supervised("does not drain", tmp_path)
    running = asyncio.create_task(one.supervisor.run())
    await eventually(lambda: one.supervisor.are_loaded)
    began = time.monotonic()
    async with asyncio.timeout(60):  # much less than the child would live
        await one.supervisor.drain()
        await running
    assert time.monotonic() - began > 1.0
    assert len(one.started()) == 1


@in_loop
async def test_replicas_start_without_a_fork_server_that_has_ended(tmp_path, caplog):
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    its.close()
    one = Supervised("lives", tmp_path, fork_server=ForkServer(ours))
    running = asyncio.create_task(one.supervisor.run())
    await eventually(lambda: one.supervisor.are_loaded)
    assert "the fork server has ended" in caplog.text
    await one.supervisor.drain()
    await running


@in_loop
async def test_it_drains_at_once_while_the_fork_server_has_forked_nothing_yet(tmp_path):
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        one = Supervised("lives", tmp_path, fork_server=ForkServer(ours))
        running = asyncio.create_task(one.supervisor.run())
        await eventually(lambda: select.select([its], [], [], 0)[0])
        await one.supervisor.drain()
        await running
    assert not one.started()
