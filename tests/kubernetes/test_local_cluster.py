"""The project's own cluster: it comes back after a kill, leaves nothing behind, and says where it cannot run."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = "omni-recovery"
STATE = Path(os.environ.get("OMNI_CLUSTER_DIR") or "/var/tmp/omni-cluster") / NAME

pytestmark = pytest.mark.apiserver


def cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "hack/cluster", *arguments, f"--name={NAME}"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture
def running() -> Iterator[None]:
    """A control plane of its own, where the machine can have one."""
    done = cluster("up", "--no-node")
    assert done.returncode == 0, done.stderr
    yield
    cluster("down")


def holder() -> int:
    return int((STATE / "sandbox.pid").read_text())


def test_up_again_changes_nothing(running: None) -> None:
    before = holder()
    assert cluster("up", "--no-node").returncode == 0
    assert holder() == before


def test_up_recovers_from_a_kill(running: None) -> None:
    before = holder()
    os.kill(before, signal.SIGKILL)
    status = cluster("status")
    assert (status.returncode, status.stdout) == (1, "")
    assert cluster("up", "--no-node").returncode == 0
    assert holder() != before
    assert "running, control plane only" in cluster("status").stdout


def test_down_leaves_nothing(running: None) -> None:
    assert cluster("down").returncode == 0
    assert not STATE.exists()
    assert not Path(f"/sys/class/net/{NAME}").exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{NAME}"))
    assert not [each for each in Path("/proc").glob("[0-9]*/cmdline") if str(STATE).encode() in command_line(each)]
    assert str(STATE) not in Path("/proc/mounts").read_text()
    assert cluster("down").returncode == 0, "a second time is no error"


def command_line(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_without_root_one_line_says_what_to_do(tmp_path: Path) -> None:
    # A copy, for a user who may not look into the one of these tests.
    shutil.copytree(ROOT / "hack/cluster", tmp_path / "hack/cluster", ignore=shutil.ignore_patterns("__pycache__"))
    command = ["/usr/bin/python3", "-B", str(tmp_path / "hack/cluster"), "up"]
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(0o755)
    done = subprocess.run(command, capture_output=True, text=True, user=65534, group=65534, env={"PATH": "/usr/bin"})
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "needs root" in line
    assert "OMNI_KUBECONFIG" in line
