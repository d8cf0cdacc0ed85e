"""What ends a process that is the first one of its container, as in a pod."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes
APART = ["unshare", "--pid", "--fork", "--mount-proc"]


def handles_sigterm(pid: int) -> bool:
    caught = Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def require_namespace() -> None:
    if shutil.which("unshare") is None or subprocess.run([*APART, "true"], check=False).returncode:
        pytest.skip("no process namespace can be made here")


def child_of(pid: int) -> int | None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


@pytest.mark.parametrize(
    "command", [["serve", "builtin://digits", "--port", "0"], ["operator"]], ids=["serve", "operator"]
)
def test_told_to_end_while_it_still_imports_it_ends_at_once(command: list[str]) -> None:
    require_namespace()
    omni = Path(sys.executable).with_name("omni")
    around = subprocess.Popen([*APART, str(omni), *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    while not ((first := child_of(around.pid)) and handles_sigterm(first)):
        assert around.poll() is None
        assert time.monotonic() < deadline, "it never came to handle the signal"
        time.sleep(0.001)
    os.kill(first, signal.SIGTERM)
    told, _ = around.communicate(timeout=300)
    assert (around.returncode, told) == (128 + signal.SIGTERM, b"")


def test_it_handles_the_signal_before_it_imports_anything_else() -> None:
    require_namespace()
    code = "import omni_worker.commands, os, signal, sys; 'argparse' in sys.modules or os.kill(1, signal.SIGTERM)"
    done = subprocess.run([*APART, sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
