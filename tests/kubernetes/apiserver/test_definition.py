"""The upgrade of the definition, as the chart's Job does it, and what becomes of objects that a newer one rejects."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from omni_operator.crd.schema import RULES_SINCE, definition
from omni_operator.kube.client import Cluster
from omni_operator.kube.resources import DEFINITIONS
from tests.kubernetes.apiserver.operators import Kubectl, StartOperator, eventually, server_warnings
from tests.operator.edits import REMOVED, edited

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("alone")]
NAME = "omnipipelines.omnipipeline.dev"


def test_an_old_definition_becomes_the_one_of_this_version(kubectl: Kubectl) -> None:
    before = kubectl.get("crd", NAME)["spec"]["versions"]
    kubectl("patch", "crd", NAME, "--type=json", "-p", '[{"op": "remove", "path": "/spec/names/shortNames"}]')
    done = subprocess.run(
        [sys.executable, "-m", "omni_operator.commands.install_crd"],
        env={**os.environ, "KUBECONFIG": kubectl.kubeconfig},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not server_warnings(done.stderr)
    after = kubectl.get("crd", NAME)["spec"]
    assert after["names"]["shortNames"] == ["op"]
    assert after["versions"] == before


@pytest.mark.since(RULES_SINCE, "rules that spare what did not change")
def test_what_became_invalid_is_reported_and_may_be_labelled_and_deleted(
    kubectl: Kubectl, start_operator: StartOperator, digits: dict[str, Any]
) -> None:
    """No rule keeps an object alive: neither one in CEL, nor a pattern of its name, nor one of an item of a list."""
    lenient = definition(RULES_SINCE - 1)
    schema = lenient["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    del schema["metadata"]["properties"]
    del schema["spec"]["properties"]["stages"]["items"]["properties"]["name"]["pattern"]
    invalid = {
        "7s": {"metadata.name": "7s"},
        "head-of-none": {"spec.head.stage": "none"},
        "with-a-task": {"spec.stages.0.task": "encode"},
        "with-an-odd-stage": {"spec.stages.0.name": "Painter", "spec.head.stage": REMOVED},
        "with-thousandths": {"spec.stages.0.shmSize": "64m"},
    }
    cluster = Cluster(kubeconfig=kubectl.kubeconfig)
    try:
        cluster.apply(DEFINITIONS, lenient, force=True, manager="helm")
        for name, edits in invalid.items():
            held = {"metadata.name": name, "metadata.finalizers": ["example.com/held"]}
            manifest = json.dumps(edited(digits, {**held, **edits}))
            eventually(lambda m=manifest: not kubectl.tried("create", "-f", "-", stdin=m).returncode, f"{name} itself")
    finally:
        cluster.apply(DEFINITIONS, definition(), force=True, manager="helm")

    def is_strict() -> bool:
        broken = json.dumps(edited(digits, {"spec.stages.0.task": "encode"}))
        return "spec.stages[0].task" in kubectl.tried("create", "--dry-run=server", "-f", "-", stdin=broken).stderr

    eventually(is_strict, "the rules")
    start_operator(kubectl.namespace)
    for name in invalid:
        eventually(lambda n=name: kubectl.condition("Accepted", n).get("status") == "False", f"a status of {name}")
        kubectl("label", "op", name, "team=a")
        kubectl("patch", "op", name, "--type=merge", "-p", '{"spec": {"paused": true}}')
        kubectl("delete", "op", name, "--cascade=foreground", "--wait=false")
        kubectl("patch", "op", name, "--type=json", "-p", '[{"op": "remove", "path": "/metadata/finalizers/0"}]')
    eventually(lambda: not kubectl.items("omnipipelines"), "the end of all of them")
