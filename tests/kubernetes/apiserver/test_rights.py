"""The operator with the rights that the chart gives it, and no more: enough for its whole job, in its namespaces."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes.apiserver.operators import CHILDREN, ROOT, Kubectl, StartOperator, eventually, serve

pytestmark = pytest.mark.apiserver
HELPERS = ROOT / "charts/omnipipeline/templates/_helpers.tpl"


def chart_rules() -> list[dict[str, Any]]:
    """The rules of the chart's Role, which are the same in every release."""
    (rules,) = re.findall(r'define "omnipipeline\.rules" -}}(.*?){{-? end', HELPERS.read_text(), re.DOTALL)
    parsed: list[dict[str, Any]] = yaml.safe_load(rules)
    return parsed


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
    assert 'cannot get resource "secrets"' in kubectl.condition("Ready")["message"]
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
