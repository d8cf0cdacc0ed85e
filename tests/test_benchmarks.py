"""The benchmarks still run: their `--quick` cells, of which nobody reads the figures. That of the operator is left out:
it takes a cluster of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = (
    "autoregressive", "executor", "foresight", "membership", "routing", "scaling", "scheduler", "soak", "step_overhead",
    "throughput", "trace_replay", "transport",
)  # fmt: skip

pytestmark = pytest.mark.processes


def test_none_is_forgotten():
    table = (ROOT / "benchmarks" / "README.md").read_text()
    listed = re.findall(r"^\| `python -m benchmarks\.(\w+)`", table, re.MULTILINE)
    assert set(listed) - {"operator", "plots"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name, tmp_path):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--output", str(tmp_path / "figures.json")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
