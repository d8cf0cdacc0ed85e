"""How the tests are spread over pytest's processes: the tests of a file stay together, because they share what it
starts. Tests on a real node come first and stay together, because they take longest and their node has no room for
more; then those of the API server, which mostly wait; then all others, the longest files first.

The marks of `--dist=loadgroup` would say the same, but pytest 9.2 no longer shows pytest-xdist 3.8 the names that it
gives the tests by them, so that it spreads them as if there were none.
"""

import os
import shutil
import tempfile

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.kubernetes.clusters import RUN_FOLDER, stop_all

MADE_HERE = pytest.StashKey[str]()

KUBERNETES = "tests/kubernetes/"
APISERVER = f"{KUBERNETES}apiserver/"
# Without a cluster that is given, tests of the API server start one without a node, and the others one with.
TOGETHER = KUBERNETES if os.environ.get("OMNI_KUBECONFIG") else f"{KUBERNETES}pods/"

ORDER = (f"{KUBERNETES}pods/", KUBERNETES, "")


class ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return TOGETHER if nodeid.startswith(TOGETHER) else nodeid.split("::")[0]


def pytest_configure(config: pytest.Config) -> None:
    if RUN_FOLDER not in os.environ:
        os.environ[RUN_FOLDER] = config.stash[MADE_HERE] = tempfile.mkdtemp(prefix="omni-tests-")


@pytest.hookimpl(trylast=True)  # after xdist has ended its processes
def pytest_sessionfinish(session: pytest.Session) -> None:
    if MADE_HERE in session.config.stash:
        stop_all()
        shutil.rmtree(session.config.stash[MADE_HERE])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next(turn for turn, start in enumerate(ORDER) if item.nodeid.startswith(start)))
