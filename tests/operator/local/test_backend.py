"""The embedded backend with real processes: a small stand-in for the worker that starts fast and can misbehave."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.local.backend import LocalBackend
from omni_operator.local.errors import Interrupted, LocalFailure
from omni_operator.local.local_process import LocalProcess
from omni_operator.local.ports import FreePorts
from omni_operator.planning.topology.local import local_topology

pytestmark = pytest.mark.processes
COMMAND = [sys.executable, str(Path(__file__).with_name("stand_in_worker.py"))]
Start = Callable[..., LocalBackend]


class Journal:
    """What the processes wrote to their journal, and what the backend reported."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.reports: list[tuple[str, str]] = []

    def lines(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    def events(self) -> list[str]:
        return [line.rpartition(" ")[0] for line in self.lines()]

    def pids(self) -> list[int]:
        return [int(line.rpartition(" ")[2]) for line in self.lines()]


def eventually(condition: Callable[[], bool], description: str) -> None:
    """Wait for a condition that other processes bring about."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {description}"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process runs. A zombie, which waits for its parent to read its exit code, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.fixture
def start(digits: dict[str, Any], tmp_path: Path, journal: Journal) -> Iterator[Start]:
    """Starts the example with a behaviour for each role, and stops what still runs at the end of the test."""
    backends: list[LocalBackend] = []

    def start(head: str = "serve", replica: str = "serve") -> LocalBackend:
        ports = FreePorts()
        topology = local_topology(parse(digits), ports(1), ports, tmp_path)
        backend = LocalBackend(
            topology,
            tmp_path,
            command=COMMAND,
            environment={
                "STAND_IN_HEAD": head,
                "STAND_IN_REPLICA": replica,
                "STAND_IN_JOURNAL": str(journal.file),
            },
            report=lambda process, state: journal.reports.append((process.name, state)),
        )
        backends.append(backend)
        backend.start()
        return backend

    yield start
    for backend in backends:
        backend.interrupt()
        backend.stop()


def test_all_processes_start_become_ready_and_stop_in_order(start: Start, journal: Journal) -> None:
    backend = start()
    backend.wait_ready(60)
    assert [process.name for process in backend.processes if process.is_ready] == ["head", "painter-0", "painter-1"]
    backend.stop()
    assert sorted(journal.events()[3:7]) == ["replica ended"] * 2 + ["replica received SIGTERM"] * 2
    assert journal.events()[7:] == ["head received SIGTERM", "head ended"], (
        "responses pass through the head until the end"
    )
    assert not any(map(is_running, journal.pids()))


def test_stages_stop_one_after_another_and_the_head_last(two: dict[str, Any], tmp_path: Path, journal: Journal) -> None:
    ports = FreePorts()
    topology = local_topology(parse(two), ports(1), ports, tmp_path)
    reported: list[str] = []

    def report(process: LocalProcess, state: str) -> None:
        reported.append(f"{process.name} {state}")

    backend = LocalBackend(topology, tmp_path, COMMAND, {"STAND_IN_JOURNAL": str(journal.file)}, report)
    try:
        backend.start()
        backend.wait_ready(60)
    finally:
        reported.clear()
        backend.stop()
    order = ("thinker-0", "painter-0", "head")
    assert reported == [f"{name} {state}" for name in order for state in ("stopping", "stopped")]


def test_a_process_that_exits_before_it_is_ready_is_reported_with_the_end_of_its_log(start: Start) -> None:
    backend = start(replica="fail")
    with pytest.raises(LocalFailure) as caught:
        backend.wait_ready(60)
    assert "exited with code 3" in str(caught.value)
    assert "painter-" in str(caught.value)
    assert "omni serve: the weights are missing" in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_process_that_never_becomes_ready_is_reported_with_its_reason(start: Start) -> None:
    backend = start(head="stuck")
    with pytest.raises(LocalFailure, match=r"not ready after 3 s: head: waits for Godot; see the logs in"):
        backend.wait_ready(3)


def test_an_interrupt_ends_the_wait(start: Start) -> None:
    backend = start(head="stuck")
    backend.interrupt()
    with pytest.raises(Interrupted):
        backend.wait_ready(60)


def test_a_second_interrupt_kills_a_process_that_does_not_stop(start: Start, journal: Journal) -> None:
    backend = start(head="stubborn")
    backend.wait_ready(60)
    backend.interrupt()
    stopping = threading.Thread(target=backend.stop)
    stopping.start()
    eventually(lambda: "head received SIGTERM" in journal.events(), "SIGTERM to the head")
    assert stopping.is_alive(), "the head has its drain timeout"
    backend.interrupt()
    stopping.join(60)
    assert not stopping.is_alive()
    assert not any(map(is_running, journal.pids()))


def test_a_stopped_process_takes_its_child_processes_with_it(start: Start, journal: Journal) -> None:
    backend = start(replica="parent")
    backend.wait_ready(60)
    assert "grandchild started" in journal.events()
    backend.stop()
    eventually(lambda: not any(map(is_running, journal.pids())), "the end of every process")


def watch_until_interrupted(backend: LocalBackend) -> None:
    with pytest.raises(Interrupted):
        backend.watch()


def test_a_replica_that_dies_later_is_reported_and_restarted(start: Start, journal: Journal) -> None:
    backend = start()
    backend.wait_ready(60)
    watching = threading.Thread(target=watch_until_interrupted, args=(backend,))
    watching.start()
    victim = backend.processes[1]
    assert victim.popen
    first = victim.popen.pid
    os.kill(first, signal.SIGKILL)
    eventually(lambda: victim.popen is not None and victim.popen.pid != first and victim.is_ready, "a new painter-0")
    backend.interrupt()
    watching.join(60)
    assert any(name == "painter-0" and "was killed by SIGKILL" in state for name, state in journal.reports)


def test_a_head_that_dies_later_ends_the_run(start: Start) -> None:
    backend = start()
    backend.wait_ready(60)
    assert backend.head.popen
    os.kill(backend.head.popen.pid, signal.SIGKILL)
    with pytest.raises(LocalFailure, match="head was killed by SIGKILL"):
        backend.watch()


def test_no_process_outlives_a_killed_backend(tmp_path: Path, journal: Journal) -> None:
    program = f"""
import time, yaml
from pathlib import Path
from omni_operator.local.backend import LocalBackend
from omni_operator.local.ports import FreePorts
from omni_operator.crd.parsing import parse
from omni_operator.planning.topology.local import local_topology
manifest = yaml.safe_load(Path({str(Path(__file__).parents[3] / "examples/digits.yaml")!r}).read_text())
ports = FreePorts()
topology = local_topology(parse(manifest), ports(1), ports, Path())
environment = {{"STAND_IN_JOURNAL": {str(journal.file)!r}}}
backend = LocalBackend(topology, Path({str(tmp_path)!r}), {COMMAND!r}, environment)
backend.start()
backend.wait_ready(60)
print("ready", flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "ready\n"
        assert all(map(is_running, journal.pids()))
        parent.kill()
    eventually(lambda: not any(map(is_running, journal.pids())), "the end of every process")
