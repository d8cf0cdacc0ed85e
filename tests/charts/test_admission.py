"""The rules that the chart gives to an API server that can check them: in CEL, and the same as the operator's own."""

from typing import Any

import cel
import pytest
import yaml

from omni_operator.crd import schema as crd
from tests.charts.test_chart import CHART, rendered
from tests.operator.conftest import from_cluster
from tests.operator.controller.heads.test_autoscaler import REFUSED as REFUSED_SCALING
from tests.operator.crd.test_parsing import ACCEPTED
from tests.operator.crd.test_rules import REFUSED_BY_RULES
from tests.operator.crd.test_schema import root
from tests.operator.edits import edited

SCALED = {"spec.stages.0.autoscaling": {"maxReplicas": 4}}
EXTERNAL = {"spec.stages.0.autoscaling": "external"}
DENIED = {row: edits for row, (edits, _) in REFUSED_BY_RULES.items()}
DENIED |= {row: REFUSED_SCALING[row][0] for row in ("a count and bounds", "fewest above most")}
ADMITTED = {**ACCEPTED, "a count within bounds": SCALED, "a count of others": EXTERNAL}
# What an API server cannot check by itself.
BY_THE_OPERATOR = (
    "a template with a container of no name",
    "a template with a stray key",
    "bodies that are larger than all together",
)
VALIDATIONS: list[dict[str, str]] = yaml.safe_load((CHART / "files/validations.yaml").read_text())
ADMISSION = "admissionregistration.k8s.io/v1"


def defaulted(value: Any, schema: dict[str, Any]) -> Any:
    """A value as the API server hands it on: with the defaults of the schema, without nulls."""
    if isinstance(value, list) and "items" in schema:
        return [defaulted(item, schema["items"]) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    result = {key: below for key, below in value.items() if below is not None or key not in schema["properties"]}
    for key, below in schema["properties"].items():
        if key not in result and "default" in below:
            result[key] = below["default"]
        if key in result:
            result[key] = defaulted(result[key], below)
    return result


def denied(manifest: dict[str, Any]) -> list[str]:
    """What the policy says against a manifest."""
    stored = defaulted(manifest, root())
    return [one["message"] for one in VALIDATIONS if cel.evaluate(one["expression"], {"object": stored}) is not True]


@pytest.mark.parametrize("row", [row for row in DENIED if row not in BY_THE_OPERATOR])
def test_what_the_operator_refuses_is_denied(row: str) -> None:
    said = denied(edited(from_cluster("digits"), DENIED[row]))
    assert said
    assert all(": " in message for message in said), "a field, and what to do"


@pytest.mark.parametrize("row", ADMITTED)
def test_what_the_operator_accepts_is_not_denied(row: str) -> None:
    assert denied(edited(from_cluster("digits"), ADMITTED[row])) == []


def test_every_expression_denies_something() -> None:
    manifests = [edited(from_cluster("digits"), edits) for edits in DENIED.values()]
    said = {message for manifest in manifests for message in denied(manifest)}
    assert [one["message"] for one in VALIDATIONS if one["message"] not in said] == []


def test_the_policy_is_made_where_it_is_asked_for_with_all_expressions() -> None:
    objects = rendered({"admissionPolicy": "always"})
    policy = objects["ValidatingAdmissionPolicy", ""]
    binding = objects["ValidatingAdmissionPolicyBinding", ""]
    assert policy["apiVersion"] == binding["apiVersion"] == ADMISSION
    assert policy["spec"]["validations"] == VALIDATIONS
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert (rule["apiGroups"], rule["apiVersions"]) == ([crd.GROUP], [crd.VERSION])


@pytest.mark.parametrize(
    "values",
    [{}, {"admissionPolicy": "never"}, {"admissionPolicy": "always", "watchNamespaces": ["a"]}],
    ids=["the API server does not tell of the kind", "never", "named namespaces"],
)
def test_no_policy_is_made_otherwise(values: dict[str, Any]) -> None:
    assert not [kind for kind, _ in rendered(values) if kind.startswith("Validating")]
