"""Who writes the count of a stage's Deployment: the spec, the operator's own scaling, or another autoscaler."""

from typing import Any

import pytest

from tests.kubernetes.apiserver.operators import LABEL, Kubectl, Operator, eventually, serve

pytestmark = pytest.mark.apiserver
STAGE = "/spec/stages/0"


def patch(kubectl: Kubectl, operation: str, value: str = "null") -> None:
    content = f'[{{"op": "{operation}", "path": "{STAGE}/autoscaling", "value": {value}}}]'
    kubectl("patch", "op", "digits", "--type=json", "-p", content)


def count(kubectl: Kubectl) -> int:
    return int(kubectl.get("deployment", "digits-painter")["spec"]["replicas"])


def uids(kubectl: Kubectl) -> set[str]:
    """Of all painters."""
    return {pod["metadata"]["uid"] for pod in kubectl.items("pods", f"{LABEL},omnipipeline.dev/role=replica")}


def is_seen(kubectl: Kubectl) -> bool:
    found = kubectl.get("op", "digits")
    return bool(found["metadata"]["generation"] == found["status"]["observedGeneration"])


def test_kubectl_scale_reaches_stages_that_name_no_count(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    serve(kubectl, digits)
    assert "3" not in kubectl("get", "op", "digits", "-o", "jsonpath={.status.replicas}")
    kubectl("scale", "op/digits", "--replicas=3")
    eventually(lambda: count(kubectl) == 3, "a third painter")


def test_another_autoscaler_takes_the_count_over_as_it_is_and_gives_it_back(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    digits["spec"]["replicas"] = 4
    serve(kubectl, digits)
    patch(kubectl, "add", '{"mode": "external"}')
    eventually(lambda: kubectl.condition("ScalingActive")["reason"] == "External", "a status that says so")
    assert count(kubectl) == 4
    pods = uids(kubectl)
    kubectl("scale", "deployment/digits-painter", "--replicas=6")
    kubectl("patch", "op", "digits", "--type=merge", "-p", '{"spec": {"replicas": 2}}')
    eventually(lambda: is_seen(kubectl), "a status of the new spec")
    kubectl.settled()
    assert count(kubectl) == 6
    assert (len(pods), len(uids(kubectl)), len(pods & uids(kubectl))) == (4, 6, 4), "two more, and all others stay"
    assert "painter, whose count spec.replicas does not set" in kubectl.condition("ScalingActive")["message"]
    assert kubectl.get("op", "digits")["status"]["stages"][0]["desired"] == 6
    patch(kubectl, "remove")
    eventually(lambda: count(kubectl) == 2, "the count of the spec")


@pytest.mark.since(23, "autoscaling/v2")
@pytest.mark.parametrize("target", ["OmniPipeline/digits", "Deployment/digits-painter"])
def test_a_horizontal_pod_autoscaler_finds_the_count_and_the_pods_and_changes_it(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any], target: str
) -> None:
    """It keeps to its bounds without any metric, which there is none of here."""
    kind, name = target.split("/")
    if kind == "Deployment":
        digits["spec"]["stages"][0]["autoscaling"] = {"mode": "external"}
    serve(kubectl, digits)
    versions = {"OmniPipeline": "omnipipeline.dev/v1alpha1", "Deployment": "apps/v1"}
    scaled = {"apiVersion": versions[kind], "kind": kind, "name": name}
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    spec = {"scaleTargetRef": scaled, "minReplicas": 4, "maxReplicas": 5, "metrics": [cpu]}
    scaler = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "hpa"}}
    kubectl.apply({**scaler, "spec": spec})
    eventually(lambda: count(kubectl) == 4, "the fewest that it allows")
    eventually(lambda: kubectl.get("op", "digits")["status"]["pods"] == 4, "the count in the status")
    eventually(lambda: kubectl.get("hpa", "hpa")["status"]["currentReplicas"] == 4, "that it sees what it did")
    kubectl.apply({**scaler, "spec": {**spec, "minReplicas": 1, "maxReplicas": 3}})
    eventually(lambda: count(kubectl) == 3, "the most that it allows")
    assert kubectl.settled()["Deployment/digits-painter"]
    assert count(kubectl) == 3


def test_without_a_head_to_ask_the_count_is_held_within_its_bounds_and_the_status_says_why(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    serve(kubectl, digits)
    patch(kubectl, "add", '{"minReplicas": 3, "maxReplicas": 6}')
    eventually(lambda: count(kubectl) == 3, "the fewest")
    eventually(lambda: kubectl.condition("ScalingActive")["reason"] == "UnknownLoad", "a status that says so")
    stage = kubectl.get("op", "digits")["spec"]["stages"][0]
    assert stage["autoscaling"]["targetQueueLength"] == 4
    before = kubectl.settled()
    kubectl("scale", "deployment/digits-painter", "--replicas=5")
    eventually(lambda: count(kubectl) == 3, "the count of ours")
    assert set(kubectl.settled()) == set(before)
