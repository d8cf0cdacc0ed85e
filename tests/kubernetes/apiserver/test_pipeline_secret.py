"""The secret that the processes of a pipeline share: made once, given to every pod, and rolled when it changes."""

import base64
import json
from typing import Any

import pytest

from tests.kubernetes.apiserver.operators import CHILDREN, LABEL, Kubectl, Operator, eventually, serve

pytestmark = pytest.mark.apiserver


def secret_of(kubectl: Kubectl) -> bytes:
    return base64.b64decode(kubectl.get("secret", "digits-keys")["data"]["secret"])


def test_every_pod_of_a_pipeline_has_its_secret_and_no_log_tells_it(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    serve(kubectl, digits)
    assert len(secret_of(kubectl).strip()) >= 32
    for pod in kubectl.items("pods", LABEL):
        assert [one["secret"]["secretName"] for one in pod["spec"]["volumes"] if "secret" in one] == ["digits-keys"]
    assert secret_of(kubectl).decode() not in operator.log.read_text()


def secret_hashes(kubectl: Kubectl) -> dict[str, str]:
    """What the Deployments tell their pods of the secret: another hash, other pods."""
    templates = {item["metadata"]["name"]: item["spec"]["template"] for item in kubectl.items("deployments", LABEL)}
    return {name: one["metadata"]["annotations"]["omnipipeline.dev/keys-hash"] for name, one in templates.items()}


@pytest.mark.parametrize("how", ["deleted", "emptied", "chosen"])
def test_another_secret_rolls_every_deployment_once(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any], how: str
) -> None:
    serve(kubectl, digits)
    before, hashes = secret_of(kubectl), secret_hashes(kubectl)
    if how == "deleted":
        kubectl("delete", "secret", "digits-keys")
    else:
        patch = {"data": {"secret": base64.b64encode(b"x" * 40).decode() if how == "chosen" else ""}}
        kubectl("patch", "secret", "digits-keys", "--type=merge", "-p", json.dumps(patch))
    kubectl("annotate", "op/digits", "look=again")  # Secrets are not watched: any event, or the next resync, will do
    eventually(lambda: not set(secret_hashes(kubectl).values()) & set(hashes.values()), "another hash in all")
    assert len(set(secret_hashes(kubectl).values())) == 1
    assert (secret_of(kubectl) == b"x" * 40) is (how == "chosen")
    assert secret_of(kubectl) != before
    kubectl.settled()
    settled = secret_of(kubectl), secret_hashes(kubectl)
    kubectl("annotate", "--overwrite", "op/digits", "look=once-more")
    kubectl.settled()
    assert (secret_of(kubectl), secret_hashes(kubectl)) == settled


def test_a_secret_of_someone_else_is_a_conflict_and_makes_no_pods(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    kubectl("create", "secret", "generic", "digits-keys", "--from-literal=secret=theirs")
    kubectl.apply(digits)
    eventually(lambda: kubectl.condition("Ready").get("reason") == "NameConflict", "the conflict")
    assert "Secret digits-keys exists and is not ours" in kubectl.condition("Ready")["message"]
    assert secret_of(kubectl) == b"theirs"
    assert not kubectl.children()
    kubectl("delete", "secret", "digits-keys")
    eventually(lambda: sorted(kubectl.children()) == CHILDREN, "the children, once the name is free")
