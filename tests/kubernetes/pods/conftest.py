"""A real node for every test below, a namespace and an operator for each module of them, and nothing left behind.

Where OMNI_KUBECONFIG names a cluster, that one is used; it must know the images that `hack/cluster/values.yaml` names
and offer some nvidia.com/gpu. Else a cluster of its own is started, once, with both images and four GPUs to schedule
on. A test that cannot have its cluster fails; it is not skipped.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from tests.kubernetes.apiserver.operators import LABEL, ROOT, Kubectl, eventually, server_warnings
from tests.kubernetes.clusters import start_once
from tests.kubernetes.conftest import kubernetes

INSTANCE = "omni-test"
GPUS = 4
END_SECONDS = 90
"""For pods without requests to end, on a machine with other work; their grace period is 330 s."""
CRD = "omnipipelines.omnipipeline.dev"


def tool(*command: str, **environment: str) -> str:
    """Run one of the project's own tools; where it fails, so does the test, with the tool's last words."""
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT
    )
    assert done.returncode == 0, f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stderr}"
    assert not (warnings := server_warnings(done.stderr)), f"`{' '.join(command)}`: {warnings}"
    return done.stdout


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """The kubeconfig of a cluster with a node, where the tests may do anything."""
    return start_once(INSTANCE, start)


def start() -> None:
    name = f"--name={INSTANCE}"
    tool("hack/cluster", "up", kubernetes("newest"), name)
    tool("hack/cluster", "images", name)
    tool("hack/cluster", "gpus", str(GPUS), name)


@pytest.fixture(scope="module")
def kubectl(kubeconfig: str) -> Iterator[Kubectl]:
    """kubectl in a namespace of the module's own, which ends with it."""
    kubectl = Kubectl(kubeconfig, f"pods-{uuid.uuid4().hex[:8]}")
    kubectl("create", "namespace", kubectl.namespace)
    # Pod Security refuses a pod that asks for more rights; Kubernetes before 1.23 does not read the label.
    kubectl("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/enforce=restricted")
    yield kubectl
    kubectl("delete", "namespace", kubectl.namespace, "--wait=false")
    eventually(lambda: not kubectl.exists("namespace", kubectl.namespace), "the end of the namespace", 180)


@pytest.fixture(scope="module")
def operator(kubectl: Kubectl) -> Iterator[str]:
    """The operator as a user installs it, by Helm, for this namespace alone. The name of its Deployment."""
    had_definition = kubectl.exists("crd", CRD)
    release = ("omnipipeline", "--namespace", kubectl.namespace, "--wait")
    scope = f"watchNamespaces=[{kubectl.namespace}]"
    settings = ("--values", "hack/cluster/values.yaml", "--set", scope)
    environment = {"OMNI_KUBECONFIG": kubectl.kubeconfig}
    tool("hack/helm.py", "upgrade", "--install", "--crds", *release, *settings, **environment)
    yield "deployment/omnipipeline"
    log = kubectl("logs", "deployment/omnipipeline", "--tail=-1")
    print(log)
    assert not server_warnings(log)
    kubectl("delete", "omnipipelines", "--all")
    # Kubernetes looks at a namespace that ends again only after half of its pods' grace period: let none be left.
    eventually(lambda: not kubectl.items("pods", LABEL), "the end of the pipelines' pods", END_SECONDS)
    tool("hack/helm.py", "uninstall", *release, **environment)
    if not had_definition:
        kubectl("delete", "crd", CRD)
