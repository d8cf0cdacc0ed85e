"""How the tests are spread over processes: a file's tests stay together, for they share what it started; and so do all
that need one cluster, for it is started once. Those begin first, for they take longest and wait most of the time.

The marks of `--dist=loadgroup` would say the same, but pytest 9.2 no longer shows pytest-xdist 3.8 the names that it
gives the tests by them, so that it spreads them as if there were none.
"""

import os

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

KUBERNETES = "tests/kubernetes/"
APISERVER = f"{KUBERNETES}apiserver/"
# Without a cluster that is given, tests of the API server start one without a node, and the others one with.
CLUSTERS = (KUBERNETES,) if os.environ.get("OMNI_KUBECONFIG") else (APISERVER, KUBERNETES)


class ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return next((cluster for cluster in CLUSTERS if nodeid.startswith(cluster)), nodeid.split("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(KUBERNETES))
