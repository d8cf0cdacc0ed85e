"""Every command of the runbooks, typed at a pipeline on a real node."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_docs import PROJECT, blocks
from tests.kubernetes.apiserver.operators import Kubectl, eventually

pytestmark = pytest.mark.pods
PATIENCE = 600


def commands() -> Iterator[str]:
    """Each once; of those that search a log, what they search."""
    for page in sorted((PROJECT / "docs/runbooks").glob("*.md")):
        for block in blocks(page, "console"):
            yield from (line.removeprefix("$ ").partition(" | grep")[0] for line in block.splitlines())


@pytest.fixture(scope="module")
def shell(kubectl: Kubectl, operator: str) -> dict[str, str]:
    """The environment of a person who looks after the pipeline of the runbooks."""
    kubectl("apply", "-f", str(PROJECT / "examples/digits.yaml"))
    eventually(lambda: kubectl.condition("Ready").get("status") == "True", "a pipeline that is Ready", PATIENCE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "KUBECONFIG": kubectl.kubeconfig}


@pytest.mark.parametrize("command", dict.fromkeys(commands()))
def test_a_command_of_a_runbook_works(command: str, shell: dict[str, str], kubectl: Kubectl) -> None:
    for name in ("gallery", "omni-system"):
        command = command.replace(name, kubectl.namespace)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=shell, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout
