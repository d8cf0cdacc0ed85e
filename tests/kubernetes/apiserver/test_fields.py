"""What the fields of a pipeline become on a real API server: the cache, the Service, and pods that are refused."""

from typing import Any

import pytest

from tests.kubernetes.apiserver.kubelet import Kubelet
from tests.kubernetes.apiserver.operators import Kubectl, Operator, eventually, serve

pytestmark = pytest.mark.apiserver


def test_a_cache_is_made_and_outlives_its_pipeline_if_asked_to(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    digits["spec"]["model"] = {"source": "hf://a/b", "cache": {"size": "1Gi", "retain": True}}
    kubectl.apply(digits)
    uid = eventually(
        lambda: [claim["metadata"]["uid"] for claim in kubectl.items("persistentvolumeclaims")], "the claim"
    )
    kubectl("delete", "op", "digits", "--timeout=30s")
    eventually(lambda: not kubectl.children(), "the end of the other children")
    kubectl.apply(digits)
    eventually(lambda: "Deployment/digits-head" in kubectl.children(), "the children again")
    assert [claim["metadata"]["uid"] for claim in kubectl.items("persistentvolumeclaims")] == uid
    digits["spec"]["model"]["cache"]["retain"] = False
    kubectl.apply(digits)
    eventually(
        lambda: kubectl.get("pvc", "digits-models")["metadata"].get("ownerReferences"), "a claim that is owned now"
    )


def test_a_service_changes_its_type_and_back(kubectl: Kubectl, operator: Operator, digits: dict[str, Any]) -> None:
    serve(kubectl, digits)
    digits["spec"]["service"] = {"type": "NodePort", "annotations": {"example.com/a": "b"}}
    kubectl.apply(digits)
    eventually(lambda: kubectl.get("service", "digits")["spec"]["type"] == "NodePort", "the type")
    before = kubectl.settled()
    assert kubectl.get("service", "digits")["metadata"]["annotations"]["example.com/a"] == "b"
    del digits["spec"]["service"]
    kubectl.apply(digits)
    eventually(lambda: kubectl.get("service", "digits")["spec"]["type"] == "ClusterIP", "the type before")
    assert "example.com/a" not in kubectl.get("service", "digits")["metadata"]["annotations"]
    after = kubectl.settled()
    assert {name for name in after if after[name] != before[name]} == {"OmniPipeline/digits", "Service/digits"}


def test_a_quota_that_refuses_pods_is_told_in_the_servers_words(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    kubectl("create", "quota", "few", "--hard=pods=1")
    kubectl.apply(digits)
    eventually(lambda: kubectl.condition("Progressing").get("reason") == "PodsRefused", "a status that says so")
    assert "exceeded quota: few" in kubectl.condition("Progressing")["message"]
    kubectl("delete", "quota", "few")
    eventually(lambda: kubectl.condition("Ready").get("reason") == "Unschedulable", "the pods, once they may be", 120)


SECRETS: dict[str, dict[str, Any]] = {
    "hf": {"model": {"source": "hf://org/name", "tokenSecretRef": {"name": "hf"}}},
    "database": {"videos": {"databaseUrlSecretRef": {"name": "database"}}},
}


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_that_is_missing_is_named_and_all_is_well_once_it_is_there(
    kubectl: Kubectl, kubelet: Kubelet, operator: Operator, digits: dict[str, Any], secret: str
) -> None:
    digits["spec"]["head"]["template"] = digits["spec"]["stages"][0]["template"] = kubelet.template
    digits["spec"] |= SECRETS[secret]
    kubelet.missing_secret = secret
    kubectl.apply(digits)

    def is_told() -> bool:
        kubelet.look()
        return bool(kubectl.condition("Ready").get("reason") == "CreateContainerConfigError")

    eventually(is_told, "a status that says so")
    assert f'secret "{secret}" not found' in kubectl.condition("Ready")["message"]
    kubelet.missing_secret = ""
    eventually(lambda: kubelet.look() and kubectl.condition("Ready")["status"] == "True", "a pipeline that serves")
