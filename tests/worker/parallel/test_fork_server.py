"""A fork server starts processes that are like new ones, and tells how they end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from omni_worker.parallel.fork_server import ForkServer, read_by_imports

pytestmark = pytest.mark.processes
MODULE = "tests.worker.parallel.forked_main"
SECONDS = 300


@pytest.fixture(scope="module", autouse=True)
def path() -> Iterator[None]:
    """Lets the servers find MODULE: they do not look in the current folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(folder for folder in sys.path if folder))
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer.spawned(["torch", "numpy", "no_such_module", MODULE])
    yield server
    server.close()


class Forked:
    """A process that runs forked_main, with its output."""

    def __init__(self, server: ForkServer, *argv: str, stdin: str = "", **environment: str) -> None:
        reads, writes = os.pipe()
        read_output, output = os.pipe()
        environment = {**read_by_imports(os.environ), **environment}
        self.status: IO[bytes] = os.fdopen(server.start(MODULE, argv, environment, (reads, output, 2)), "rb", 0)
        os.write(writes, stdin.encode())
        for fd in (reads, writes, output):
            os.close(fd)
        self.output = os.fdopen(read_output)
        self.pid = int(self.status.readline() or 0)

    def result(self) -> Any:
        (line,) = self.lines()
        return line

    def lines(self) -> list[Any]:
        with self.output:
            return [json.loads(line) for line in self.output]

    def code(self) -> int:
        with self.status:
            return int(self.status.readline())


def is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0]
    return False


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + SECONDS
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} does not end"
        time.sleep(0.01)


def test_a_process_has_its_own_arguments_environment_session_and_files(server: ForkServer) -> None:
    forked = Forked(server, "describe", "ä", stdin="config", A="1", OMP_NUM_THREADS="3")
    seen = forked.result()
    assert forked.code() == 0
    assert (seen["pid"], seen["session"], seen["argv"]) == (forked.pid, forked.pid, ["describe", "ä"])
    assert seen["environment"] == {**read_by_imports(os.environ), "A": "1", "OMP_NUM_THREADS": "3"}
    assert (seen["stdin"], seen["threads"], seen["sum"]) == ("config", 3, 1 << 20)
    assert seen["sigterm"]
    assert seen["is_forked"]
    assert Forked(server, "describe").result()["files"] == seen["files"], "it inherits nothing of its siblings"


def test_a_process_is_a_new_one_if_an_import_has_used_a_device() -> None:
    server = ForkServer.spawned(["tests.worker.parallel.uses_a_device", MODULE])
    forked = Forked(server, "describe", "ä", stdin="config", A="1", PYTHONPATH=os.environ["PYTHONPATH"])
    seen = forked.result()
    assert forked.code() == 0
    assert (seen["pid"], seen["session"], seen["argv"]) == (forked.pid, forked.pid, ["describe", "ä"])
    assert (seen["environment"]["A"], seen["stdin"]) == ("1", "config")
    assert not seen["is_forked"]
    server.close()


@pytest.mark.parametrize(
    "changes",
    [{"HF_HOME": "/somewhere/else"}, {"HOME": "/somewhere/else"}, {"PYTHONPATH": "/somewhere/else:{PYTHONPATH}"}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_process_is_a_new_one_if_its_environment_would_change_the_imports(
    server: ForkServer, changes: dict[str, str]
) -> None:
    environment = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    assert Forked(server, "describe", **environment).result()["is_forked"]
    changed = {name: value.format(**environment) for name, value in changes.items()}
    forked = Forked(server, "describe", "ä", stdin="config", **{**environment, **changed})
    seen = forked.result()
    assert not seen["is_forked"]
    assert (seen["pid"], seen["session"], seen["argv"]) == (forked.pid, forked.pid, ["describe", "ä"])
    assert seen["environment"].items() >= changed.items()


def test_siblings_share_no_randomness(server: ForkServer) -> None:
    one, other = (Forked(server, "describe").result()["random"] for _ in range(2))
    assert not set(one) & set(other)


def test_the_exit_code_is_told_and_of_a_signal_its_number(server: ForkServer) -> None:
    assert Forked(server, "end", "7").code() == 7
    assert Forked(server, "raise").code() == 1
    waits = Forked(server, "wait")
    os.kill(waits.pid, signal.SIGTERM)
    assert waits.code() == -signal.SIGTERM


def test_threads_and_exit_handlers_end_as_in_a_new_process(server: ForkServer) -> None:
    assert Forked(server, "leave work").lines() == ["thread", "atexit"]


def test_one_that_ends_does_not_disturb_another_and_neither_does_a_client_that_gave_it_up(server: ForkServer) -> None:
    waits, given_up = Forked(server, "wait"), Forked(server, "wait")
    given_up.status.close()
    os.kill(given_up.pid, signal.SIGKILL)
    wait_for_end(given_up.pid)
    assert Forked(server, "end", "0").code() == 0
    assert is_running(waits.pid)
    os.kill(waits.pid, signal.SIGKILL)
    assert waits.code() == -signal.SIGKILL


def test_what_a_server_has_started_ends_with_it_and_it_starts_nothing_more() -> None:
    server = ForkServer.spawned([])
    waits = Forked(server, "wait")
    assert server._process is not None
    server._process.kill()
    assert waits.status.read() == b""
    with pytest.raises(OSError, match=r"."):
        Forked(server, "end", "0")
    wait_for_end(waits.pid)
    server.close()


def test_it_ends_with_its_client_and_not_by_a_signal_to_the_group() -> None:
    program = f"""
import os, signal, sys
from omni_worker.parallel.fork_server import ForkServer
server = ForkServer.forked(["{MODULE}"])
print(open(f"/proc/{{os.getpid()}}/task/{{os.getpid()}}/children").read(), flush=True)
with open(os.devnull) as nothing:
    status = os.fdopen(server.start("{MODULE}", ["end", "5"], dict(os.environ), (nothing.fileno(), 1, 2)))
print(len(status.readlines()[0:1]), flush=True)
signal.pause()
"""
    client = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert client.stdout is not None
    fork_server = int(client.stdout.readline())
    assert client.stdout.readline() == "1\n"
    os.kill(fork_server, signal.SIGTERM)
    os.kill(fork_server, signal.SIGINT)
    assert is_running(fork_server)
    client.kill()
    client.wait()
    wait_for_end(fork_server)


def test_modules_do_not_come_from_the_folder_where_it_runs(tmp_path: Path) -> None:
    (tmp_path / "colorsys.py").write_text("raise SystemExit('the model in this folder runs its code')")
    program = """
import os
from omni_worker.parallel.fork_server import ForkServer
server = ForkServer.forked(["colorsys"])
with open(os.devnull) as nothing:
    status = server.start("colorsys", [], dict(os.environ), (nothing.fileno(), 1, 2))
print(os.fdopen(status).read().split()[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
    )  # fmt: skip
    assert done.stdout.strip() == "1"
    assert "has no attribute 'main'" in done.stderr, "the module of the standard library was imported"
