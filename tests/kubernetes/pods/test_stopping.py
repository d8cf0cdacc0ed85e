"""Pods that are told to stop in their first moments: they stop then, and not when their grace period is over."""

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.kubernetes.apiserver.operators import EXAMPLE, LABEL, Kubectl, eventually
from tests.kubernetes.pods.conftest import END_SECONDS

pytestmark = pytest.mark.pods

PATIENCE = 600


@pytest.fixture(scope="module")
def digits(kubectl: Kubectl, operator: str) -> Kubectl:
    """The example with one painter, which is Ready."""
    manifest: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"]["replicas"] = 1
    kubectl.apply(manifest)
    eventually(lambda: kubectl.condition("Ready").get("status") == "True", "a pipeline that is Ready", PATIENCE)
    return kubectl


def started(kubectl: Kubectl, role: str) -> Iterator[str]:
    """The names of pods whose container runs."""
    for pod in kubectl.items("pods", f"{LABEL},omnipipeline.dev/role={role}"):
        if "running" in pod["status"].get("containerStatuses", [{}])[0].get("state", {}):
            yield pod["metadata"]["name"]


@pytest.mark.parametrize("role", ["head", "replica"])
def test_an_init_is_process_1_and_omni_its_child(digits: Kubectl, role: str) -> None:
    name = next(started(digits, role))
    assert digits("exec", name, "--", "cat", "/proc/1/comm").strip() == "tini"
    assert digits("exec", name, "--", "cat", "/proc/1/cmdline").split("\0")[:4] == ["tini", "--", "omni", "serve"]


@pytest.mark.parametrize("role", ["head", "replica"])
@pytest.mark.parametrize("moment", ["at once", "half a second later"])
def test_a_pod_that_is_deleted_as_it_starts_ends_at_once(digits: Kubectl, role: str, moment: str) -> None:
    before = set(started(digits, role))
    digits("delete", "pod", *before, "--wait=false")
    (name,) = eventually(lambda: set(started(digits, role)) - before, "the container of the pod in its place", PATIENCE)
    if moment != "at once":
        time.sleep(0.5)
    digits("delete", "pod", name, "--wait=false")
    began = time.monotonic()
    wait = ["kubectl", f"--kubeconfig={digits.kubeconfig}", f"--namespace={digits.namespace}", "wait", "--for=delete"]
    subprocess.run([*wait, f"pod/{name}", f"--timeout={END_SECONDS}s"], check=True)
    assert time.monotonic() - began < END_SECONDS


def test_a_pipeline_that_is_deleted_as_it_starts_ends_at_once(digits: Kubectl) -> None:
    digits("scale", "op/digits", "--replicas=2")
    eventually(lambda: len(set(started(digits, "replica"))) == 2, "a second painter that starts", PATIENCE)
    digits("delete", "op", "digits", "--wait=false")
    eventually(lambda: not digits.items("pods", LABEL), "the end of all pods", END_SECONDS)
