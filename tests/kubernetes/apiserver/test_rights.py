"""The operator with the rights that the chart gives it, and no more: enough for its whole job, in its namespaces."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.charts.test_chart import documents, rendered
from tests.kubernetes.apiserver.operators import CHILDREN, Kubectl, StartOperator, eventually, serve

pytestmark = pytest.mark.apiserver
LEASE = "omni-operator"


def chart_rules() -> list[dict[str, Any]]:
    """The rules of the chart's Role for one namespace."""
    role = rendered({"watchNamespaces": ["a"]})["Role", "a"]
    rules: list[dict[str, Any]] = role["rules"]
    return rules


def limited_kubeconfig(kubectl: Kubectl, rules: list[dict[str, Any]], folder: Path) -> str:
    """A kubeconfig of a ServiceAccount with these rules in kubectl's namespace, and no right elsewhere."""
    named = {"name": "limited", "namespace": kubectl.namespace}
    kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named})
    grant(kubectl, rules, kubectl.namespace)
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["users"][0]["user"] = {"token": kubectl("create", "token", "limited").strip()}
    file = folder / "limited.kubeconfig"
    file.write_text(json.dumps(config))
    return str(file)


def grant(kubectl: Kubectl, rules: list[dict[str, Any]], home: str) -> None:
    """Give the ServiceAccount of the namespace `home` these rights in kubectl's."""
    named = {"name": "limited", "namespace": kubectl.namespace}
    group = "rbac.authorization.k8s.io"
    kubectl.apply(
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": named, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": named,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "limited"},
            "subjects": [{"kind": "ServiceAccount", "name": "limited", "namespace": home}],
        },
    )


def without(verb: str, resource: str) -> list[dict[str, Any]]:
    """The chart's rules but for one verb of one resource."""
    rules = []
    for rule in chart_rules():
        others = [each for each in rule["resources"] if each != resource]
        rules.append({**rule, "resources": others})
        if others != rule["resources"]:
            rules.append({**rule, "resources": [resource], "verbs": [each for each in rule["verbs"] if each != verb]})
    return [rule for rule in rules if rule["resources"]]


def test_the_charts_rights_in_one_namespace_are_enough(
    kubectl: Kubectl, start_operator: StartOperator, digits: dict[str, Any], tmp_path: Path
) -> None:
    start_operator(kubectl.namespace, kubeconfig=limited_kubeconfig(kubectl, chart_rules(), tmp_path))
    serve(kubectl, digits)
    digits["spec"]["stages"][0]["name"] = digits["spec"]["head"]["stage"] = "brush"
    kubectl.apply(digits)
    eventually(lambda: "Deployment/digits-brush" in kubectl.children(), "the new Deployment")
    eventually(lambda: "Deployment/digits-painter" not in kubectl.children(), "the end of the old Deployment")


def test_without_the_right_to_secrets_the_status_says_so_and_no_pod_is_made(
    kubectl: Kubectl, start_operator: StartOperator, digits: dict[str, Any], tmp_path: Path
) -> None:
    rules = [rule for rule in chart_rules() if rule["resources"] != ["secrets"]]
    start_operator(kubectl.namespace, kubeconfig=limited_kubeconfig(kubectl, rules, tmp_path))
    kubectl.apply(digits)
    eventually(lambda: kubectl.condition("Ready").get("reason") == "Forbidden", "a status that says so")
    assert 'cannot create resource "secrets"' in kubectl.condition("Ready")["message"]
    assert not kubectl.children()


# The verb and the resource, and the kind of children that suffers.
MISSING = [
    ("patch", "configmaps", "ConfigMap"),
    ("create", "services", "Service"),
    ("patch", "deployments", "Deployment"),
    ("list", "poddisruptionbudgets", "PodDisruptionBudget"),
    ("watch", "networkpolicies", "NetworkPolicy"),
]


@pytest.mark.parametrize(("verb", "resource", "kind"), MISSING)
def test_a_missing_right_is_named_in_the_status_and_pipelines_elsewhere_go_on(
    kubectl: Kubectl,
    other: Kubectl,
    start_operator: StartOperator,
    digits: dict[str, Any],
    tmp_path: Path,
    verb: str,
    resource: str,
    kind: str,
) -> None:
    kubeconfig = limited_kubeconfig(kubectl, without(verb, resource), tmp_path)
    grant(other, chart_rules(), kubectl.namespace)
    start_operator(kubectl.namespace, other.namespace, kubeconfig=kubeconfig)
    kubectl.apply(digits)
    eventually(lambda: kubectl.condition("Ready").get("reason") == "Forbidden", "a status that says so")
    assert f'cannot {verb} resource "{resource}"' in kubectl.condition("Ready")["message"]
    serve(other, digits)
    assert {name for name in CHILDREN if name.partition("/")[0] != kind} <= set(kubectl.children()), "all else is made"
    grant(kubectl, chart_rules(), kubectl.namespace)
    eventually(lambda: kubectl.condition("Ready").get("reason") == "Unschedulable", "the rest, once it may")


# ---- what the chart's ClusterRole adds: the Leases of one name, in all namespaces


def test_leases_of_all_namespaces_are_listed_by_their_one_name_only(kubectl: Kubectl, other: Kubectl) -> None:
    named = {"name": f"{kubectl.namespace}-leases"}
    group = "rbac.authorization.k8s.io"
    rules = [rule for rule in rendered()["ClusterRole", ""]["rules"] if rule["resources"] == ["leases"]]
    account = {"kind": "ServiceAccount", "name": "limited", "namespace": kubectl.namespace}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "limited", "namespace": kubectl.namespace}},
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": named, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": named,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", **named},
            "subjects": [account],
        },
    )
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    other.apply({**lease, "metadata": {"name": LEASE, "namespace": other.namespace}, "spec": {"holderIdentity": ""}})
    as_operator = ("--as", f"system:serviceaccount:{kubectl.namespace}:limited")
    by_name = ("get", "leases", "--all-namespaces", f"--field-selector=metadata.name={LEASE}", "--output=name")
    try:
        eventually(lambda: kubectl.tried(*by_name, *as_operator).returncode == 0, "the right to list them")
        assert "lease" in kubectl(*by_name, *as_operator)
        assert "forbidden" in kubectl.tried("get", "leases", "--all-namespaces", *as_operator).stderr
        one = kubectl.tried("delete", "lease", LEASE, f"--namespace={other.namespace}", *as_operator)
        assert "forbidden" in one.stderr
    finally:
        kubectl("delete", "clusterrole,clusterrolebinding", named["name"])


# ---- what RBAC cannot say: the chart's policies for the operator's own account


@pytest.mark.since(30, "ValidatingAdmissionPolicy")
def test_the_operator_works_under_its_policies_and_may_change_nothing_of_others(
    kubectl: Kubectl, start_operator: StartOperator, digits: dict[str, Any], tmp_path: Path
) -> None:
    values = {"operatorPolicy": "always", "serviceAccount": {"name": "limited"}}
    policies = [each for each in documents(values, kubectl.namespace) if each["kind"].startswith("ValidatingAdm")]
    for_kubectl = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}  # it reads what it patches
    kubeconfig = limited_kubeconfig(kubectl, [*chart_rules(), for_kubectl], tmp_path)
    as_operator = ("--as", f"system:serviceaccount:{kubectl.namespace}:limited")
    kubectl("create", "secret", "generic", "theirs", "--from-literal=a=b")
    kubectl("run", "theirs", "--image=theirs")
    kubectl("create", "configmap", "theirs")
    change = '{"metadata": {"annotations": {"a": "b"}}}'

    def refusal(kind: str) -> str:
        return kubectl.tried("patch", kind, "theirs", "--type=merge", "-p", change, *as_operator).stderr

    try:
        kubectl.apply(*policies)
        labelled = {"name": "other", "labels": {"app.kubernetes.io/managed-by": "omni-operator"}}
        other = json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": labelled})
        create = ("create", "--dry-run=server", "-f", "-", *as_operator)
        eventually(
            lambda: "the operator creates only" in kubectl.tried(*create, stdin=other).stderr, "policies that are asked"
        )
        assert "forbidden" in refusal("secret")
        assert "forbidden" in kubectl.tried("get", "secret", "theirs", *as_operator).stderr
        eventually(lambda: "the operator changes only" in refusal("pod"), "the policy of pods")
        eventually(lambda: "the operator" in refusal("configmap"), "the policy of children")
        start_operator(kubectl.namespace, kubeconfig=kubeconfig)
        serve(kubectl, digits)
        digits["spec"]["stages"][0]["name"] = digits["spec"]["head"]["stage"] = "brush"
        kubectl.apply(digits)
        eventually(lambda: "Deployment/digits-brush" in kubectl.children(), "the new Deployment")
        eventually(lambda: "Deployment/digits-painter" not in kubectl.children(), "the end of the old Deployment")
        kubectl("delete", "secret", kubectl.keys_secret()["metadata"]["name"])
        kubectl("annotate", "op/digits", "look=again")
        eventually(lambda: "Secret/digits-keys" in kubectl.children(), "another Secret")
        pod = kubectl.items("pods", "omnipipeline.dev/pipeline=digits")[0]["metadata"]["name"]
        eventually(lambda: kubectl.tried("annotate", "pod", pod, "a=b", *as_operator).returncode == 0, "an annotation")
    finally:
        for each in policies:
            kubectl("delete", each["kind"], each["metadata"]["name"], "--ignore-not-found")
