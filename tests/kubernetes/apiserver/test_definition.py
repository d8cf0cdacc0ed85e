"""The upgrade of the definition, as the chart's Job does it."""

import os
import subprocess
import sys

import pytest

from tests.kubernetes.apiserver.operators import Kubectl, server_warnings

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
