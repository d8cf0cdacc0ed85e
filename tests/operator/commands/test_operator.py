"""`omni operator` where it cannot start: one clear line, no traceback."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes
OMNI = str(Path(sys.executable).with_name("omni"))


def omni_operator(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    return subprocess.run([OMNI, "operator", *arguments], env=environment, capture_output=True, text=True, timeout=60)


def test_without_a_cluster_it_says_what_to_set(tmp_path: Path) -> None:
    done = omni_operator(tmp_path, "--probe-port=0", "--metrics-port=0")
    assert done.returncode == 1
    assert "omni operator: no cluster to talk to: set KUBECONFIG to a kubeconfig file, or run in a pod" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_busy_probe_port_is_reported(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = omni_operator(tmp_path, f"--probe-port={port}", "--metrics-port=0")
    assert done.returncode == 1
    message = f"omni operator: --probe-port {port}: Address already in use; choose another port, or 0 for none"
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_flag_is_a_usage_error(tmp_path: Path) -> None:
    assert omni_operator(tmp_path, "--namespaces=a").returncode == 2


def test_help_names_the_defaults(tmp_path: Path) -> None:
    done = omni_operator(tmp_path, "--help")
    assert done.returncode == 0
    assert "ghcr.io/omnipipeline/worker:0.1.0" in done.stdout
