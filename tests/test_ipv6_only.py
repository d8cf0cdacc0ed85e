"""A pipeline on a machine that has only IPv6, with the command lines that the operator gives its processes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes
APART = ["unshare", "--net"]


def test_a_head_and_a_replica_serve_a_request_over_ipv6_alone(tmp_path: Path) -> None:
    if not all(map(shutil.which, ("unshare", "ip"))) or subprocess.run([*APART, "true"], check=False).returncode:
        pytest.skip("needs root, to make a network namespace")
    command = [*APART, sys.executable, "-m", "tests.ipv6_only", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=Path(__file__).parents[1])
    logs = "\n".join(f"{log.name}:\n{log.read_text()}" for log in tmp_path.glob("*.log"))
    assert done.returncode == 0, f"{done.stderr}\n{logs}"
    answer = json.loads(done.stdout.splitlines()[-1])
    assert set(answer["probes"].values()) == {200}, logs
    assert answer["status"] == 200, logs
    assert answer["addresses"] == ["tcp://[fd00::7]:9100"]
