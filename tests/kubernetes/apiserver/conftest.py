"""A real API server for every test below, a namespace for each, and operators that end with it.

Where OMNI_KUBECONFIG names a cluster, that one is used; else a control plane is started, without a node, of the oldest
Kubernetes that is maintained.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes.apiserver.faults import FaultyServer, faulty_server
from tests.kubernetes.apiserver.kubelet import Kubelet
from tests.kubernetes.apiserver.operators import (
    EXAMPLE,
    EXAMPLE_OF_TWO,
    Kubectl,
    Operator,
    StartOperator,
    eventually,
    server_warnings,
)
from tests.kubernetes.clusters import HACK_CLUSTER, held, start_once
from tests.kubernetes.conftest import kubernetes

INSTANCE = "apiserver-tests"
NOWHERE = {"spec": {"nodeSelector": {"omnipipeline.dev/such-a-node-is-not-there": "true"}}}


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """The kubeconfig of a cluster where the tests may do anything."""
    return start_once(INSTANCE, start)


def start() -> None:
    flags = ("--no-node", kubernetes("oldest"), f"--name={INSTANCE}")
    subprocess.run([*HACK_CLUSTER, "up", *flags], check=True)


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """No other test uses the cluster meanwhile: for modules that change, or look at, what all namespaces share."""
    with held(INSTANCE, alone=True):
        yield


@pytest.fixture(autouse=True)
def beside_others(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of several processes use the cluster, each in its namespaces, while none is `alone`."""
    if "alone" in request.fixturenames:
        yield
        return
    with held(INSTANCE, alone=False):
        yield


@pytest.fixture(scope="session")
def definition(kubeconfig: str) -> None:
    """The CRD, as the chart's Job applies it."""
    install = [sys.executable, "-m", "omni_operator.commands.install_crd"]
    subprocess.run(install, env={**os.environ, "KUBECONFIG": kubeconfig}, check=True)
    kubectl = Kubectl(kubeconfig, "default")
    kubectl("wait", "--for=condition=Established", "crd/omnipipelines.omnipipeline.dev")


@pytest.fixture
def kubectl(kubeconfig: str, definition: None) -> Iterator[Kubectl]:
    """kubectl in a namespace of the test's own."""
    kubectl = Kubectl(kubeconfig, f"test-{uuid.uuid4().hex[:8]}")
    kubectl("create", "namespace", kubectl.namespace)
    yield kubectl
    kubectl("delete", "namespace", kubectl.namespace, "--wait=false")


@pytest.fixture
def other(kubectl: Kubectl) -> Iterator[Kubectl]:
    """kubectl in a second namespace."""
    other = Kubectl(kubectl.kubeconfig, f"{kubectl.namespace}-b")
    other("create", "namespace", other.namespace)
    yield other
    other("delete", "namespace", other.namespace, "--wait=false")


@pytest.fixture
def start_operator(kubeconfig: str, tmp_path: Path) -> Iterator[StartOperator]:
    operators: list[Operator] = []

    def start(*namespaces: str, kubeconfig: str = kubeconfig, flags: tuple[str, ...] = ()) -> Operator:
        operators.append(Operator(kubeconfig, tmp_path / f"operator-{len(operators)}.log", *namespaces, flags=flags))
        return operators[-1]

    yield start
    for operator in operators:
        operator.kill()
        print(operator.log.read_text())
    assert not [each for operator in operators for each in server_warnings(operator.log.read_text())]


@pytest.fixture
def operator(start_operator: StartOperator, kubectl: Kubectl) -> Operator:
    """An operator for the test's namespace, on its way up."""
    return start_operator(kubectl.namespace)


@pytest.fixture
def way(kubeconfig: str) -> Iterator[FaultyServer]:
    """A way to the API server that counts what passes, and on which things go wrong if the test says so."""
    with faulty_server(kubeconfig) as server:
        yield server


@pytest.fixture
def kubelet(kubectl: Kubectl) -> Iterator[Kubelet]:
    """A node of the test's own, on which pods serve when the test looks."""
    kubelet = Kubelet(kubectl, f"node-of-{kubectl.namespace}")
    yield kubelet
    kubelet.lost.clear()
    kubectl("delete", "op", "--all", "--timeout=30s")
    eventually(lambda: not kubelet.look() and not kubectl.items("pods"), "the end of all pods")
    kubectl("delete", "node", kubelet.name)


@pytest.fixture
def digits() -> dict[str, Any]:
    """examples/digits.yaml, with pods that fit on no node of any cluster."""
    manifest: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"]["head"]["template"] = manifest["spec"]["stages"][0]["template"] = NOWHERE
    return manifest


@pytest.fixture
def two() -> dict[str, Any]:
    """The same of examples/digits-thinker.yaml: a thinker and a painter."""
    manifest: dict[str, Any] = yaml.safe_load(EXAMPLE_OF_TWO.read_text())
    manifest["spec"]["head"] = {"template": NOWHERE}
    for stage in manifest["spec"]["stages"]:
        stage["template"] = NOWHERE
    return manifest


@pytest.fixture
def serving(kubectl: Kubectl, kubelet: Kubelet, operator: Operator, digits: dict[str, Any]) -> dict[str, Any]:
    """A head and three painters of worker:1, all of which serve."""
    digits["spec"]["head"]["template"] = digits["spec"]["stages"][0]["template"] = kubelet.template
    digits["spec"] |= {"replicas": 3, "image": {"name": "worker:1"}}
    kubectl.apply(digits)
    eventually(lambda: kubelet.look() and kubectl.condition("Ready").get("status") == "True", "a pipeline that serves")
    return digits
