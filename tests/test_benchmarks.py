"""The benchmarks still run: their `--quick` cells, of which nobody reads the figures. Those that take minutes even so
are left out; they are made of the same parts."""

import os
import re
from pathlib import Path

import pytest

from tests.worker import warm

ROOT = Path(__file__).parents[1]
NAMES = (
    "autoregressive", "caching", "executor", "foresight", "head_memory", "loras", "membership", "neighbours", "routing",
    "scheduler", "soak", "start", "step_overhead", "transport",
)  # fmt: skip
LONG = {"kuberay", "operator", "scaling", "throughput", "trace_replay"}

pytestmark = pytest.mark.processes


def test_none_is_forgotten():
    table = (ROOT / "benchmarks" / "README.md").read_text()
    listed = re.findall(r"^\| `python -m benchmarks\.(\w+)`", table, re.MULTILINE)
    assert set(listed) - LONG - {"plots"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    ended = warm.run(f"benchmarks.{name}", ["--quick", "--output", str(tmp_path / "figures.json")], os.environ)
    assert ended.returncode == 0, ended.stdout + ended.stderr
