"""Debian packages for the cluster, with an apt-get that fails as the real one does while another one runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Makes a folder while it works: only one process at a time can.
APT_GET = """#!/bin/sh
mkdir "$STATE/lock" || { echo "Could not get lock /var/lib/apt/lists/lock" >&2; exit 100; }
sleep 0.3
[ "$1" = install ] && for package; do touch "$STATE/has-$package"; done
echo "$1" >> "$STATE/calls"
rmdir "$STATE/lock"
"""
DPKG_QUERY = """#!/bin/sh
for package; do :; done
[ -e "$STATE/has-$package" ] || exit 1
printf "install ok installed"
"""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without packages."""
    for name, script in {"apt-get": APT_GET, "dpkg-query": DPKG_QUERY}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "STATE": str(tmp_path), "OMNI_CLUSTER_CACHE": str(tmp_path / "cache")}


def test_processes_that_need_packages_at_the_same_time_take_turns(machine: dict[str, str]) -> None:
    needs = [["etcd-server", "runc"], ["etcd-server", "runc"], ["etcd-server", "containerd"]]
    code = "import sys; from hack.cluster.packages import install; install(sys.argv[1:])"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *packages], env=machine, cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for packages in needs
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    calls = (Path(machine["STATE"]) / "calls").read_text().split()
    assert calls == ["update", "install"] * 2  # what two processes need is installed once
