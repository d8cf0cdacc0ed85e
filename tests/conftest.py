"""How the tests are spread over pytest's processes, and the clusters of a run, which end with it.

The tests of a file stay together, because they share what it starts. Tests on a real node come first and stay
together: they take longest, and their node has no room for more. Then come files of the API server, which mostly wait,
in turn with all others, which mostly compute; the longest files first.

The marks of `--dist=loadgroup` would say the same, but pytest 9.2 no longer shows pytest-xdist 3.8 the names that it
gives the tests by them, so that it spreads them as if there were none.
"""

import itertools
import os
import shutil
import tempfile

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.fork_server_of_run import ForkServerOfRun
from tests.kubernetes.clusters import RUN_FOLDER, stop_all

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes of tests and their servers share a few cores

MADE_HERE = pytest.StashKey[str]()
FORK_SERVER = pytest.StashKey[ForkServerOfRun]()
KUBERNETES = "tests/kubernetes/"
PODS = f"{KUBERNETES}pods/"
# A cluster that is given is one for all; otherwise tests of the API server have one of their own, without a node.
TOGETHER = KUBERNETES if os.environ.get("OMNI_KUBECONFIG") else PODS
SLOW = (
    "tests/worker/pipelines/test_zoo.py",
    "tests/worker/faults/",
    "tests/worker/commands/test_serve.py",
    "tests/docs/test_laptop.py",
    "tests/test_benchmarks.py",
    "tests/examples/",
    "tests/worker/endpoint/test_second_head.py",
    "tests/worker/orchestrator/test_two_stages.py",
    "tests/worker/parallel/",
    "tests/worker/playground/",
    "tests/worker/api/videos/test_routes.py",
    "tests/worker/orchestrator/test_stage_models.py",
    "tests/worker/api/test_full_queue.py",
    "tests/monitoring/test_expressions.py",
    "tests/worker/engine/executor/test_multiproc.py",
    "tests/worker/models/test_digits.py",
    "tests/worker/telemetry/test_tracing.py",
    "tests/worker/api/test_requests.py",
    "tests/worker/commands/test_fetch.py",
    "tests/operator/commands/test_up.py",
    "tests/worker/coordinator/test_secret.py",
    "tests/worker/pipelines/interception/test_feature_caches.py",
    "tests/worker/pipelines/test_acceleration.py",
    "tests/worker/replica/test_data_connection.py",
    "tests/worker/commands/test_local_replicas.py",
    "tests/worker/api/test_openapi.py",
    "tests/operator/client/test_uploads.py",
    "tests/operator/commands/test_generate.py",
)
"""The files, or folders of files, that take 20 s or more, longest first. `make test-fast` leaves them out."""


class ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def scope_of(nodeid: str) -> str:
    """What stays together in one process: a file, or all tests on a node."""
    return TOGETHER if nodeid.startswith(TOGETHER) else nodeid.split("::")[0]


def pytest_configure(config: pytest.Config) -> None:
    if RUN_FOLDER not in os.environ:
        os.environ[RUN_FOLDER] = config.stash[MADE_HERE] = tempfile.mkdtemp(prefix="omni-tests-")
        config.stash[FORK_SERVER] = ForkServerOfRun(os.environ[RUN_FOLDER])


@pytest.hookimpl(trylast=True)  # after xdist has ended its processes
def pytest_sessionfinish(session: pytest.Session) -> None:
    if MADE_HERE in session.config.stash:
        session.config.stash[FORK_SERVER].stop()
        stop_all()
        shutil.rmtree(session.config.stash[MADE_HERE])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    turns = {scope: turn for turn, scope in enumerate(in_order({scope_of(item.nodeid): None for item in items}))}
    items.sort(key=lambda item: turns[scope_of(item.nodeid)])


def in_order(scopes: dict[str, None]) -> list[str]:
    """Tests on a node, then files of the API server and others in turn, of these the longest first."""

    def length(scope: str) -> int:
        return next((place for place, start in enumerate(SLOW) if scope.startswith(start)), len(SLOW))

    waiting = [scope for scope in scopes if scope.startswith(KUBERNETES) and scope != TOGETHER]
    computing = sorted((scope for scope in scopes if not scope.startswith(KUBERNETES)), key=length)
    mixed = itertools.chain.from_iterable(itertools.zip_longest(computing, waiting))
    return [scope for scope in (TOGETHER, *mixed) if scope in scopes]
