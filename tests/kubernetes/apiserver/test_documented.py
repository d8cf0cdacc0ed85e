"""The kubectl commands of the documentation and of the examples, typed as they stand there, in an order that makes
sense. The operator runs beside them, and the namespace lets no pod in: what needs pods, tests/kubernetes/pods types.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kubernetes.apiserver.operators import ROOT, Kubectl, StartOperator, eventually
from tests.kubernetes.documented import TYPED, needs_pods, verb

pytestmark = pytest.mark.apiserver
ORDER = ("openssl", "create", "apply", "get", "explain", "describe", "scale", "patch", "rollout", "delete")
HERE = sorted((command for command in TYPED if not needs_pods(command)), key=lambda each: ORDER.index(verb(each)))
Shell = Callable[[str], str]


def shell_of(kubectl: Kubectl, folder: Path) -> Shell:
    """Types a command into a shell in a folder with what the documentation takes to be there, and gives its answer."""
    for name in ("examples", "charts"):
        (folder / name).symlink_to(ROOT / name)
    config = json.loads(Path(kubectl.in_contexts(folder)).read_text())
    config["current-context"] = "here"
    file = folder / "kubeconfig"
    file.write_text(json.dumps(config))
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "KUBECONFIG": str(file)}

    def type_in(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], env=environment, cwd=folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
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
        said[command] = shell(command)
    pipelines = {item["metadata"]["name"]: item for item in kubectl.items("omnipipelines")}
    assert pipelines.keys() == {"digits", "digits-public", "digits-thinker", "flux", "sdxl", "sd35", "wan"}
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
