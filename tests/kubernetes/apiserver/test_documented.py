"""The kubectl and Helm commands of the documentation and of the examples, typed as they stand there, in an order that
makes sense; and its manifests, as the API server sees them. The operator runs beside them, and the namespace lets no
pod in: what needs pods, tests/kubernetes/pods types.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.test_docs import PROJECT, manifests, patched
from tests.kubernetes.apiserver.operators import ROOT, Kubectl, StartOperator, eventually, server_warnings
from tests.kubernetes.documented import HELM, WITHOUT_PODS, verb

pytestmark = pytest.mark.apiserver
ORDER = ("openssl", "create", "apply", "get", "explain", "describe", "scale", "patch", "rollout", "delete")
HERE = sorted(set(WITHOUT_PODS) - set(HELM), key=lambda each: (ORDER.index(verb(each)), WITHOUT_PODS.index(each)))
Shell = Callable[[str], str]


def shell_of(kubectl: Kubectl, folder: Path) -> Shell:
    """Types a command into a shell in a folder with what the documentation takes to be there, and gives its answer."""
    for name in ("examples", "charts"):
        (folder / name).symlink_to(ROOT / name)
    config = json.loads(Path(kubectl.in_contexts(folder)).read_text())
    config["current-context"] = "here"
    file = folder / "kubeconfig"
    file.write_text(json.dumps(config))
    helm = folder / "helm"  # its library, by the words of its program
    helm.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/hack/helm.py "$@"\n')
    helm.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), "KUBECONFIG": str(file)}

    def type_in(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], env=environment, cwd=folder, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert not (warnings := server_warnings(done.stderr)), f"{command}: {warnings}"
        return done.stdout

    return type_in


@pytest.fixture
def shell(kubectl: Kubectl, start_operator: StartOperator, tmp_path: Path) -> Iterator[Shell]:
    certificate = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=digits -keyout tls.key -out tls.crt"
    subprocess.run(certificate.split(), cwd=tmp_path, capture_output=True, check=True)
    kubectl("create", "quota", "no-pods", "--hard=pods=0")
    start_operator(kubectl.namespace)
    yield shell_of(kubectl, tmp_path)
    kubectl("delete", "omnipipelines", "--all")


def test_every_command_does_what_is_told_of_it(kubectl: Kubectl, shell: Shell) -> None:
    wanted = {"Deployment/digits-painter", "Deployment/flux-painter", "Deployment/flux-head", "Secret/digits-keys"}
    said: dict[str, str] = {}
    for command in HERE:
        if verb(command) == "get":
            eventually(lambda: wanted <= kubectl.children().keys(), "what the operator makes")
            eventually(lambda: "PodsRefused" in kubectl("get", "omnipipelines"), "a status of refused pods")
        said[command] = shell(command)
    pipelines = {item["metadata"]["name"]: item for item in kubectl.items("omnipipelines")}
    images = {
        "digits",
        "digits-public",
        "digits-thinker",
        "flux",
        "flux3",
        "flux-two-gpus",
        "sdxl",
        "sd35",
        "sd35-24gb",
    }
    assert pipelines.keys() == images | {"wan", "stable-audio", "audioldm2", "ace-step"}
    assert pipelines["digits"]["spec"]["replicas"] == 3, "scaled"
    assert pipelines["digits"]["spec"]["suspend"] is True, "patched"
    (header, *rows) = said["kubectl get op"].splitlines()
    assert header.split() == ["NAME", "READY", "REASON", "REPLICAS", "SERVING", "MODEL", "AGE"]
    assert [row.split()[0] for row in rows] == sorted(pipelines)
    assert "PodsRefused" in said["kubectl get op"]
    assert "Events:" in said["kubectl describe op/digits"]
    assert "KIND:     OmniPipeline" in said["kubectl explain op.spec.stages"].replace("       ", "     ")
    assert "restartedAt" in json.dumps(kubectl.get("deployment", "flux-painter")["spec"]["template"])
    assert len(kubectl.get("secret", "digits-clients")["data"]["keys"]) > 64
    eventually(lambda: "Secret/digits-keys" in kubectl.children(), "another secret in place of the deleted one")


def test_helm_installs_and_upgrades_as_is_told(kubectl: Kubectl, tmp_path: Path) -> None:
    """But for the upgrade of the CRD, a Job for which there is no node; it is taken over beforehand instead."""
    shell = shell_of(kubectl, tmp_path)

    def helm(command: str) -> None:
        shell(command.replace("omni-system", kubectl.namespace))

    installed, upgraded = ([command for command in HELM if verb(command) == each] for each in ("install", "upgrade"))
    assert sorted([*installed, *upgraded]) == sorted(HELM)
    for command in installed:
        helm(f"{command} --set crdUpgrade=false --crds")
        (container,) = kubectl.get("deployment", "omnipipeline")["spec"]["template"]["spec"]["containers"]
        for setting in re.findall(r"--set image\.repository=(\S+)", command):
            assert container["image"] == f"{setting}:dev"
            assert setting.replace("operator", "worker") + ":dev" in container["args"]
        for other in upgraded:
            helm(f"{other} --set crdUpgrade=false")
        helm("helm uninstall omnipipeline --namespace omni-system")


@pytest.mark.parametrize("manifest", [pytest.param(manifest, id=where) for where, manifest in manifests()])
def test_the_api_server_knows_every_field_of_a_manifest(manifest: dict[str, Any], kubectl: Kubectl) -> None:
    """A part of one, which begins with `spec`, is put over the first example."""
    whole = manifest
    if "kind" not in manifest:
        whole = patched(yaml.safe_load((PROJECT / "examples/digits.yaml").read_text()), manifest)
    if whole["apiVersion"] not in kubectl("api-versions").split():
        pytest.skip(f"this cluster is too old for {whole['apiVersion']}")
    done = kubectl("apply", "--dry-run=server", "--validate=true", "-f", "-", stdin=yaml.safe_dump(whole))
    assert "created (server dry run)" in done
