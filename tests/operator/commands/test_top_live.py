"""`omni top` on a terminal: it shows what changes, lives through answers that are none, and ends on q."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.operator.commands.stand_in_head import PAINTER, StandInHead, replica, running, stage

SECONDS = 30.0


class Terminal:
    """`omni top` in a terminal of 120 columns."""

    def __init__(self, url: str) -> None:
        self.master, slave = pty.openpty()
        argv = [sys.executable, "-m", "omni_worker.commands.cli", "top", "--url", url, "--interval", "0.2"]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)

    def shows(self, text: str) -> bool:
        """Whether this comes onto the screen in time."""
        seen, deadline = b"", time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if select.select([self.master], [], [], 0.2)[0]:
                seen += os.read(self.master, 65536)
                if text.encode() in seen:
                    return True
        return False

    def close(self) -> None:
        """End it, whatever happened."""
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(head: StandInHead) -> Iterator[Terminal]:
    shown = Terminal(head.url)
    yield shown
    shown.close()


def test_it_follows_the_pipeline_until_q(head: StandInHead, terminal: Terminal) -> None:
    assert terminal.shows("painter-0")
    head.requests = [running("a-request", step=5, total=20)]
    head.stages = [stage(PAINTER, replica("painter-0"), replica("painter-1", completed=3))]
    assert terminal.shows("painter-1")
    assert terminal.shows("5/20")
    head.stages = [{"replicas": []}]  # of no name
    assert terminal.shows("does not answer like a pipeline")
    head.not_ready, head.stages = "no replica is up", [stage(PAINTER)]
    assert terminal.shows("not ready: no replica is up")
    os.write(terminal.master, b"xq")
    deadline = time.monotonic() + SECONDS
    while terminal.process.poll() is None and time.monotonic() < deadline:
        if select.select([terminal.master], [], [], 0.1)[0]:
            try:
                os.read(terminal.master, 65536)
            except OSError:  # the other side is closed
                break
    assert terminal.process.wait(SECONDS) == 0
