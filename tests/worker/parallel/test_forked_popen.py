"""A forked process is used as one of `subprocess`."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni_worker.parallel.fork_server import ForkServer
from omni_worker.parallel.forked_popen import ForkedPopen

from .test_fork_server import MODULE, SECONDS, is_running, wait_for_end

pytestmark = pytest.mark.processes


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServer]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # servers do not look where they run
    server = ForkServer.spawned([MODULE])
    yield server
    server.close()


def test_it_has_input_output_files_and_a_folder(server: ForkServer, tmp_path: Path) -> None:
    with tempfile.TemporaryFile() as five, tempfile.TemporaryFile() as none, (tmp_path / "output").open("w") as output:
        five.write(b"5 are")
        five.flush()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        files = (none.fileno(), five.fileno())
        forked = ForkedPopen(
            server, MODULE, ["count"], environment, stdout=output.fileno(), inherited=files, folder=str(tmp_path)
        )
        assert forked.stdin is not None
        forked.stdin.write(b"one\ntwo\n")
        forked.stdin.close()
        while "2\n" not in (told := (tmp_path / "output").read_text()):
            assert forked.poll() is None
        assert told == f"0 5 {tmp_path}\n2\n"
        forked.terminate()
        assert forked.wait() == forked.poll() == -signal.SIGTERM


def test_it_is_waited_for_until_it_ends_by_several_threads_too(server: ForkServer) -> None:
    forked = ForkedPopen(server, MODULE, ["wait"], os.environ)
    with pytest.raises(subprocess.TimeoutExpired, match=MODULE):
        forked.wait(0.01)
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(forked.wait(SECONDS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    forked.kill()
    for thread in threads:
        thread.join()
    assert codes == [-signal.SIGKILL] * 4
    with forked:
        forked.kill()
    assert forked.returncode == -signal.SIGKILL
    assert not is_running(forked.pid)


def test_it_ends_with_its_server_and_none_is_started_after_that(server: ForkServer) -> None:
    forked = ForkedPopen(server, MODULE, ["wait"], os.environ)
    assert server._process is not None
    server._process.kill()
    assert forked.wait(SECONDS) == -signal.SIGKILL
    wait_for_end(forked.pid)
    with pytest.raises(OSError, match=r"."):
        ForkedPopen(server, MODULE, ["wait"], os.environ)
