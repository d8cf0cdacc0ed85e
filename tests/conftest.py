"""How the tests are spread over processes: a file's tests stay together, for they share what it started; and so do all
that need a cluster, for one is started once. Those begin first, for they take longest.

The marks of `--dist=loadgroup` would say the same, but pytest 9.2 no longer shows pytest-xdist 3.8 the names that it
gives the tests by them, so that it spreads them as if there were none.
"""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

CLUSTER = "tests/kubernetes/"


class ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return CLUSTER if nodeid.startswith(CLUSTER) else nodeid.split("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(CLUSTER))
