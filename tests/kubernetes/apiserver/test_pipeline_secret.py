"""The Secret that the processes of a pipeline share: made once, given to every pod, and replaced when it is gone."""

import base64
from typing import Any

import pytest

from tests.kubernetes.apiserver.operators import LABEL, Kubectl, Operator, eventually, serve

pytestmark = pytest.mark.apiserver
OF_DIGITS = f"{LABEL},omnipipeline.dev/pipeline=digits"


def mounted(kubectl: Kubectl, kind: str) -> dict[str, set[str]]:
    """The Secrets of the pods of one kind of objects, by their names."""
    return {
        item["metadata"]["name"]: {one["secret"]["secretName"] for one in spec["volumes"] if "secret" in one}
        for item in kubectl.items(kind, LABEL)
        for spec in [item["spec"].get("template", item)["spec"]]
    }


def test_every_pod_of_a_pipeline_has_its_secret_and_no_log_tells_it(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    serve(kubectl, digits)
    secret = kubectl.keys_secret()
    content = base64.b64decode(secret["data"]["secret"])
    assert len(content.strip()) >= 32
    assert all(names == {secret["metadata"]["name"]} for names in mounted(kubectl, "pods").values())
    assert content.decode() not in operator.log.read_text()
    change = '{"data": {"secret": ""}}'
    assert "immutable" in kubectl.tried("patch", "secret", secret["metadata"]["name"], "-p", change).stderr


def test_a_deleted_secret_rolls_every_deployment_once(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    serve(kubectl, digits)
    before = kubectl.keys_secret()
    kubectl("delete", "secret", "--selector", OF_DIGITS)
    kubectl("annotate", "op/digits", "look=again")  # Secrets are not watched: any event, or the next resync, will do
    former = before["metadata"]["name"]
    eventually(
        lambda: not any(former in names for names in mounted(kubectl, "deployments").values()), "another one in all"
    )
    settled = kubectl.settled()
    (after,) = kubectl.items("secrets", OF_DIGITS)
    assert after["data"] != before["data"]
    assert set(map(frozenset, mounted(kubectl, "deployments").values())) == {frozenset({after["metadata"]["name"]})}
    kubectl("annotate", "--overwrite", "op/digits", "look=once-more")
    kubectl.settled()
    assert kubectl.items("secrets", OF_DIGITS) == [after]
    assert kubectl.versions().keys() == settled.keys()
