"""The multi-process executor with a small runner: real worker processes, and everything that can happen to them."""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
import zmq

from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import ExecutorFailed, UniProcExecutor
from omni_worker.engine.executor.multiproc import MultiprocExecutor, RunnerSpec
from omni_worker.engine.scheduler import Finished, SchedulerOutput, SchedulerRequest, StepScheduler
from omni_worker.errors import CommandError, RequestError
from omni_worker.parallel.fork_server import ForkServer
from omni_worker.parallel.ranks import Ranks
from tests.worker import warm

from .process_resources import descriptors, held, is_gone, left_behind, mappings, segments
from .small_runner import SmallRunner

pytestmark = pytest.mark.processes
HERE = f"{__package__}.small_runner"
SPEC = RunnerSpec(f"{HERE}:build", ("small",))
PATIENCE = 30.0


def requests(*payloads, first=0):
    return tuple(SchedulerRequest(f"r{first + i}", payload) for i, payload in enumerate(payloads))


def run(executor, payloads, name="r"):
    """Every payload's result, stepped together; ids that were used before are dropped first."""
    ids = tuple(f"{name}{i}" for i in range(len(payloads)))
    executor.execute(SchedulerOutput(1, tuple(map(SchedulerRequest, ids, payloads)), finished=frozenset(ids)))
    for step in range(3):
        output = executor.execute(SchedulerOutput(2 + step, cached=ids))
    return [one.result for one in output.outputs]


def eventually(check):
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


@pytest.fixture(scope="module", params=["new", "forked"])
def fork_server(request):
    return warm.server_for(os.environ) if request.param == "forked" else None


@pytest.fixture(scope="module")
def pair(fork_server):
    executor = MultiprocExecutor(SPEC, 2, PATIENCE, fork_server)
    yield executor
    executor.shutdown()


def test_the_card_is_the_first_ranks(pair):
    assert pair.card == "small on rank 0"


def test_results_equal_those_of_one_process(pair):
    rows = [torch.randn(2, 16, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    alone = UniProcExecutor(SmallRunner(Ranks()))
    for one, other in zip(run(pair, rows), run(alone, rows), strict=True):
        assert torch.equal(one, other)


def test_every_rank_ends_with_the_same_state_and_walks_in_the_same_order(pair):
    assert pair.collective_rpc("stats", (), PATIENCE) == pair.collective_rpc("stats", (), PATIENCE)
    (_, seed, order, _), (_, other_seed, other_order, _) = pair.collective_rpc("where", (), PATIENCE)
    assert (seed, order) == (other_seed, other_order)


def test_equal_keys_stay_equal(pair):
    output = pair.execute(SchedulerOutput(1, requests(torch.zeros(2, 16), torch.zeros(3, 16), torch.ones(2, 16))))
    one, other, third = (entry.key for entry in output.outputs)
    assert one == third != other
    pair.execute(SchedulerOutput(2, finished=frozenset(("r0", "r1", "r2"))))


@pytest.mark.parametrize("size", [1, 64 << 10, (64 << 10) + 4, 1 << 20, 32 << 20], ids=lambda size: f"{size} bytes")
def test_tensors_cross_intact_both_ways(pair, size):
    sent = torch.randint(0, 256, (size,), dtype=torch.uint8)
    pair.collective_rpc("keep", ({"deep": [sent, sent.numpy()]},), PATIENCE)
    for answer in pair.collective_rpc("kept", (), PATIENCE):
        assert torch.equal(answer["deep"][0], sent)
        assert np.array_equal(answer["deep"][1], sent.numpy())
        answer["deep"][0].zero_()
    assert torch.equal(pair.collective_rpc("kept", (), PATIENCE)[1]["deep"][0], sent), "what is sent is a copy"
    pair.collective_rpc("keep", (None,), PATIENCE)


def test_many_messages_create_no_further_segment(pair):
    pair.collective_rpc("make", (100_000,), PATIENCE)
    before = mappings("omni-pool"), descriptors(), segments()
    for _ in range(200):
        first, second = pair.collective_rpc("make", (100_000,), PATIENCE)
    assert (mappings("omni-pool"), descriptors(), segments()) == before
    assert torch.equal(first[0] + 1, second[0])
    assert np.array_equal(first[1], np.arange(100_000)[::2])


def test_what_fails_on_one_rank_only_fails_for_all(pair):
    output = pair.execute(SchedulerOutput(1, requests("on the last rank only", "fine", "invalid")))
    lost, fine, invalid = output.outputs
    assert isinstance(lost.error, MemoryError)
    assert fine.result == "done"
    assert isinstance(invalid.error, RequestError)
    assert (invalid.error.kind, invalid.error.message, invalid.error.param) == ("invalid", "no such size", "width")


def test_an_rpc_raises_what_the_method_raised_and_says_where(pair):
    with pytest.raises(KeyError, match="nothing there") as raised:
        pair.collective_rpc("fail", (1,), PATIENCE)
    notes = "\n".join(raised.value.__notes__)
    assert "raised by fail on rank 1 of 2" in notes
    assert "small_runner.py" in notes
    with pytest.raises(ValueError, match="no method 'execute'; there are: stats"):
        pair.collective_rpc("execute", (), PATIENCE)
    with pytest.raises(TypeError, match="pickle"):
        pair.collective_rpc("unsendable", (), PATIENCE)
    assert pair.collective_rpc("wait", (0,), PATIENCE) == [0, 0]


def test_an_rpc_that_is_late_is_given_up_and_its_answer_passed_over(pair):
    with pytest.raises(TimeoutError, match=r"wait: ranks \[0, 1\] did not answer"):
        pair.collective_rpc("wait", (0.5,), 0.05)
    assert pair.collective_rpc("wait", (0,), PATIENCE) == [0, 0]


def test_an_orderly_end_leaves_nothing_behind(fork_server):
    before = held()
    executor = MultiprocExecutor(SPEC, 2, PATIENCE, fork_server)
    executor.watch(lambda error: pytest.fail("an orderly end is no failure"))
    big = executor.collective_rpc("make", (1_000_000,), PATIENCE)
    pids = executor.pids
    executor.shutdown()
    executor.shutdown()
    assert all(map(is_gone, pids))
    assert float(big[0][0][-1]) == 999_999, "a result outlives its executor"
    del big
    assert not left_behind(before)
    with pytest.raises(ExecutorFailed, match="have ended"):
        executor.execute(SchedulerOutput(1))


@pytest.mark.parametrize("payload", ["raise", "hang", "killed"])
def test_a_step_that_fails_as_a_whole_ends_all_workers_and_leaves_nothing_behind(payload, fork_server):
    before = held()
    size, timeout = 2 if payload == "killed" else 1, 1.0 if payload == "hang" else PATIENCE
    executor = MultiprocExecutor(SPEC, size, timeout, fork_server)
    pids = executor.pids
    if payload == "killed":
        threading.Timer(0.3, os.kill, (pids[1], signal.SIGKILL)).start()
    reason = {
        "raise": "rank 0 failed: RuntimeError: the device is lost",
        "hang": r"ranks \[0\] did not end a step within 1 s",
        "killed": rf"rank 1 \(process {pids[-1]}\) was killed by SIGKILL",
    }[payload]
    with pytest.raises(ExecutorFailed, match=reason) as raised:
        executor.execute(SchedulerOutput(1, requests("raise" if payload == "raise" else "hang")))
    if payload == "raise":
        assert "a wire came loose" in "".join(raised.value.__cause__.__notes__)
    assert all(map(is_gone, pids))
    executor.shutdown()
    eventually(lambda: not left_behind(before))


def test_a_worker_that_dies_idle_ends_the_engine_at_once_and_tells_its_owner(fork_server):
    before = held()
    events, failures = queue.Queue(), queue.Queue()
    executor = MultiprocExecutor(SPEC, 2, PATIENCE, fork_server)
    pids = executor.pids
    engine = Engine(StepScheduler(2), executor, events.put, failures.put)
    engine.start()
    engine.add(SchedulerRequest("a", torch.zeros(1, 16)))
    while not isinstance(events.get(timeout=PATIENCE), Finished):
        pass
    os.kill(pids[0], signal.SIGKILL)
    assert "rank 0" in str(failures.get(timeout=PATIENCE))
    engine.stop()
    assert failures.empty(), "told once"
    assert all(map(is_gone, pids))
    del engine, executor
    assert not left_behind(before)


@pytest.mark.parametrize("dead", [0, 1])
def test_a_worker_whose_connection_is_gone_holds_up_neither_a_call_nor_the_end(dead, fork_server):
    for end in ("call", "shutdown"):
        executor = MultiprocExecutor(SPEC, 2, PATIENCE, fork_server)
        pids, socket = executor.pids, executor._workers._workers[dead].socket
        os.kill(pids[dead], signal.SIGKILL)
        eventually(lambda socket=socket: not socket.poll(0, zmq.POLLOUT))
        if end == "call":
            with pytest.raises(ExecutorFailed, match=rf"rank {dead} .* was killed by SIGKILL"):
                run(executor, [torch.zeros(1, 16)])
        executor.shutdown()
        assert all(map(is_gone, pids))


def test_what_hinders_the_start_is_raised_here_and_leaves_nothing_behind(fork_server):
    before = held()
    with pytest.raises(CommandError, match="nowhere://else cannot be loaded"):
        MultiprocExecutor(RunnerSpec(f"{HERE}:not_found"), 2, PATIENCE, fork_server)
    with pytest.raises(ExecutorFailed, match="ended with exit code 7"):
        MultiprocExecutor(RunnerSpec(f"{HERE}:dies"), 1, PATIENCE, fork_server)
    assert not left_behind(before)


def test_workers_start_without_a_fork_server_that_has_ended(caplog):
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    its.close()
    executor = MultiprocExecutor(SPEC, 1, PATIENCE, ForkServer(ours))
    assert executor.collective_rpc("stats", (), PATIENCE) == [{"states": 0}]
    assert "the fork server has ended" in caplog.text
    executor.shutdown()
    ours.close()


PARENT = f"""
import sys, time
from omni_worker.engine.executor.multiproc import MultiprocExecutor, RunnerSpec
executor = MultiprocExecutor(RunnerSpec("{HERE}:build", ("small",)), 2)
executor.collective_rpc("make", (1_000_000,), 30)
print(*executor.pids, flush=True)
time.sleep(600)
"""


def test_workers_end_with_their_parent_however_it_dies():
    names = segments()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # workers import nothing from where they run
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert not any(map(is_gone, pids))
    parent.kill()
    parent.communicate()
    eventually(lambda: all(map(is_gone, pids)))
    assert segments() == names
