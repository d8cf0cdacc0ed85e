"""What the API server lets the operator's ServiceAccount change, where RBAC cannot say it: in CEL."""

from typing import Any

import cel
import pytest
import yaml

from omni_operator.crd.parsing import parse
from omni_operator.planning.manifests import children
from omni_operator.planning.manifests.config import keys_secret
from omni_operator.planning.manifests.pod import Surroundings
from omni_operator.planning.topology.cluster import cluster_topology
from tests.charts.test_chart import CHART, documents, rendered
from tests.operator.conftest import from_cluster
from tests.operator.edits import edited

POLICIES: list[dict[str, Any]] = yaml.safe_load((CHART / "files/operator-policies.yaml").read_text())
PIPELINE = parse(edited(from_cluster("sdxl"), {"spec.monitoring": {"podMonitor": {}}}))
CHILDREN = children(PIPELINE, cluster_topology(PIPELINE), Surroundings("worker:test"), "keys")
SECRET = keys_secret(PIPELINE, "sdxl-keys-0123abcd", "s" * 64)
DEPLOYMENT = next(child for child in CHILDREN if child["kind"] == "Deployment")
POD = {
    "kind": "Pod",
    "metadata": {"name": "sdxl-head-x", **DEPLOYMENT["spec"]["template"]["metadata"]},
    "spec": DEPLOYMENT["spec"]["template"]["spec"],
}


def resource_of(child: dict[str, Any]) -> str:
    kind = child["kind"].lower()
    return f"{kind[:-1]}ies" if kind.endswith("policy") else f"{kind}s"


def group_of(child: dict[str, Any]) -> str:
    group, separator, _ = child.get("apiVersion", "v1").partition("/")
    return group if separator else ""


def denied(operation: str, new: dict[str, Any] | None, old: dict[str, Any] | None = None) -> list[str]:
    """What the policies say against a change."""
    child: Any = new or old
    variables = {"object": new, "oldObject": old, "request": {"operation": operation}}
    return [
        validation["message"]
        for policy in POLICIES
        for rule in policy["resourceRules"]
        if operation in rule["operations"]
        and resource_of(child) in rule["resources"]
        and group_of(child) in rule["apiGroups"]
        for validation in policy["validations"]
        if cel.evaluate(validation["expression"], variables) is not True
    ]


def without_labels(child: dict[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in child["metadata"].items() if key != "labels"}
    return {**child, "metadata": metadata}


@pytest.mark.parametrize("child", CHILDREN, ids=lambda child: f"{child['kind']} {child['metadata']['name']}")
def test_every_child_may_be_created_changed_and_deleted_and_nobody_elses(child: dict[str, Any]) -> None:
    theirs = without_labels(child)
    assert denied("CREATE", child) == denied("UPDATE", child, child) == denied("DELETE", None, child) == []
    assert denied("CREATE", theirs)
    assert denied("UPDATE", theirs, child)
    assert denied("UPDATE", child, theirs), "an object of someone else cannot be taken over"
    assert denied("DELETE", None, theirs)


def test_only_the_secrets_of_pipelines_are_created() -> None:
    assert denied("CREATE", SECRET) == []
    assert denied("CREATE", without_labels(SECRET))
    assert denied("CREATE", edited(SECRET, {"metadata.ownerReferences": []})), "no pipeline owns it"
    assert denied("CREATE", edited(SECRET, {"metadata.name": "digits-token"}))
    assert denied("CREATE", edited(SECRET, {"type": "kubernetes.io/service-account-token"}))


def test_only_annotations_of_the_pods_of_pipelines_are_changed() -> None:
    annotations = {**POD["metadata"]["annotations"], "controller.kubernetes.io/pod-deletion-cost": "-1"}
    marked = edited(POD, {"metadata.annotations": annotations})
    assert denied("UPDATE", marked, POD) == []
    assert denied("UPDATE", edited(POD, {"spec.containers.0.image": "evil"}), POD)
    assert denied("UPDATE", edited(POD, {"metadata.labels": {"app": "web"}}), POD)
    assert denied("UPDATE", without_labels(marked), without_labels(POD))
    assert denied("CREATE", POD)
    assert denied("DELETE", None, POD)


def test_the_policies_are_about_the_operators_account_and_deny_where_they_cannot_be_evaluated() -> None:
    values = {"operatorPolicy": "always", "serviceAccount": {"name": "omni"}}
    made = [each for each in documents(values) if each["kind"] == "ValidatingAdmissionPolicy"]
    bound = [each for each in documents(values) if each["kind"] == "ValidatingAdmissionPolicyBinding"]
    assert [each["spec"]["validations"] for each in made] == [policy["validations"] for policy in POLICIES]
    assert [each["spec"]["policyName"] for each in bound] == [each["metadata"]["name"] for each in made]
    for policy in made:
        assert policy["spec"]["failurePolicy"] == "Fail"
        (condition,) = policy["spec"]["matchConditions"]
        for who, is_meant in (("system:serviceaccount:omni-system:omni", True), ("system:admin", False)):
            assert cel.evaluate(condition["expression"], {"request": {"userInfo": {"username": who}}}) is is_meant


def test_every_resource_that_the_operator_may_write_is_covered() -> None:
    writes = {"create", "update", "patch", "delete"}
    rules = rendered()["ClusterRole", ""]["rules"]
    may_write = {resource for rule in rules if writes & set(rule["verbs"]) for resource in rule["resources"]}
    covered = {resource for policy in POLICIES for rule in policy["resourceRules"] for resource in rule["resources"]}
    assert may_write - covered == {"events", "omnipipelines/status"}
    assert [rule["verbs"] for rule in rules if "secrets" in rule["resources"]] == [["create"]], "none can be read"


@pytest.mark.parametrize(
    "values",
    [{}, {"operatorPolicy": "never"}, {"operatorPolicy": "always", "watchNamespaces": ["a"]}],
    ids=["the API server does not tell of the kind", "never", "named namespaces"],
)
def test_no_policy_is_made_otherwise(values: dict[str, Any]) -> None:
    assert not [each for each in documents(values) if each["kind"].startswith("Validating")]
