"""`omni top`: a single frame, and on a terminal, where it follows the pipeline until q."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.operator.commands.conftest import Omni
from tests.operator.commands.stand_in_head import PAINTER, StandInHead, replica, running, stage

TOP = "omni_operator.commands.top"
SECONDS = 30.0


def test_top_shows_requests_with_their_progress(head: StandInHead, omni: Omni) -> None:
    head.requests = [running("a-request", step=5, total=20), *(running(f"r{i}") for i in range(20))]
    code, text = omni(TOP, "--once", "--interval", "0.1", "--url", head.url)
    assert code == 0
    assert "5/20" in text
    assert "and 5 more" in text
    assert "0.0 pictures/s" in text


def test_top_shows_the_server_that_a_stage_is(head: StandInHead, omni: Omni) -> None:
    endpoint = {"url": "http://vllm:8000/v1", "model": "qwen", "problem": "refused"}
    server = {"name": "rewriter", "engine": "openai", "task": None, "pipeline": "qwen", "endpoint": endpoint}
    head.stages = [stage(server, replica("rewriter-0", state="ERROR")), stage(PAINTER, replica("painter-0"))]
    _, text = omni(TOP, "--once", "--interval", "0.1", "--url", head.url)
    (row,) = [line.split() for line in text.splitlines() if "http://vllm" in line]
    assert row == ["http://vllm:8000/v1", "rewriter", "qwen", "refused"]
    assert "0.0 tokens/s" in text


def test_top_as_json_has_the_rates(head: StandInHead, omni: Omni) -> None:
    _, text = omni(TOP, "--output", "json", "--interval", "0.1", "--url", head.url)
    assert json.loads(text)["rates"] == {"painter": {"value": 0.0, "unit": "pictures"}}


class Terminal:
    """`omni top` in a terminal of 120 columns."""

    def __init__(self, url: str) -> None:
        self.master, slave = pty.openpty()
        argv = [sys.executable, "-m", "omni_worker.commands.cli", "top", "--url", url, "--interval", "0.2"]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)

    def shows(self, text: str) -> bool:
        """Whether a text appears on the screen in time."""
        output, deadline = b"", time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if select.select([self.master], [], [], 0.2)[0]:
                output += os.read(self.master, 65536)
                if text.encode() in output:
                    return True
        return False

    def close(self) -> None:
        """Kill the command and close the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(head: StandInHead) -> Iterator[Terminal]:
    terminal = Terminal(head.url)
    yield terminal
    terminal.close()


def test_top_follows_the_pipeline_until_q(head: StandInHead, terminal: Terminal) -> None:
    assert terminal.shows("painter-0")
    head.requests = [running("a-request", step=5, total=20)]
    head.stages = [stage(PAINTER, replica("painter-0"), replica("painter-1", completed=3))]
    assert terminal.shows("painter-1")
    assert terminal.shows("5/20")
    head.stages = [{"replicas": []}]  # a stage without a name
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
