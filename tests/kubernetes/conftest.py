"""What all tests on a real Kubernetes share: kubectl on the PATH, and the patience a first start needs."""

import os
import sys
from pathlib import Path

import pytest

# On a machine that has never had the cluster, the first test of a session waits until Kubernetes is compiled.
FIRST_START_SECONDS = 1800

os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


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
