"""What all tests on a real Kubernetes share: kubectl on the PATH, the patience a first start needs, and which version.

The pod tests run on the newest Kubernetes, and the API server's tests on the oldest that is maintained.
OMNI_TEST_KUBERNETES names another version for both. If neither can be had, `hack/cluster` falls back to 1.20, and tests
that need more are skipped with that reason.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

# On a machine that has never had the cluster, the first test of a session waits until Kubernetes is compiled.
FIRST_START_SECONDS = 1800

os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def kubernetes(usual: str) -> str:
    """The version to start, as a flag of `hack/cluster up`."""
    return f"--kubernetes={os.environ.get('OMNI_TEST_KUBERNETES') or usual}"


@cache
def server_minor(kubeconfig: str) -> int:
    """The 37 of a server with Kubernetes 1.37."""
    command = ["kubectl", f"--kubeconfig={kubeconfig}", "get", "--raw", "/version"]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return int(answer["minor"].rstrip("+"))


def skip_before(kubeconfig: str, first: int, what: str) -> None:
    """Skip the test on a Kubernetes before 1.FIRST, which does not have WHAT."""
    minor = server_minor(kubeconfig)
    if minor < first:
        pytest.skip(f"Kubernetes 1.{minor} has no {what}, which came with 1.{first}")


@pytest.fixture(autouse=True)
def old_servers_are_spared(request: pytest.FixtureRequest) -> None:
    """Skips a test that is marked `since` a version that this server does not have."""
    for mark in request.node.iter_markers("since"):
        skip_before(request.getfixturevalue("kubeconfig"), *mark.args)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(FIRST_START_SECONDS))
    if os.environ.get("OMNI_KUBECONFIG"):
        # The cluster of the tests is another one; that of the project is then not under test.
        own = [item for item in items if item.path == here / "test_local_cluster.py"]
        config.hook.pytest_deselected(items=own)
        items[:] = [item for item in items if item not in own]
