"""The chart without a cluster: it lints, refuses what it does not know, and grants no more than the operator needs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Chart, HelmValuesError

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/omnipipeline"


def documents(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """All that the chart renders, the pod of `helm test` and what is its own too."""
    with Chart.load(CHART) as chart:
        files = chart.render(values or {}, name="omnipipeline", namespace="omni-system")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def hook(each: dict[str, Any]) -> str | None:
    """When an object is made, if it is not one of those that stay."""
    found: str | None = (each["metadata"].get("annotations") or {}).get("helm.sh/hook")
    return found


def is_for_the_test(each: dict[str, Any]) -> bool:
    return hook(each) == "test"


def is_for_people(each: dict[str, Any]) -> bool:
    return any("aggregate-to" in label for label in each["metadata"].get("labels") or {})


def rendered(values: dict[str, Any] | None = None) -> dict[tuple[str, str], dict[str, Any]]:
    """What the chart installs for the operator, by kind and namespace."""
    objects = [each for each in documents(values) if not hook(each) and not is_for_people(each)]
    return {(each["kind"], each["metadata"].get("namespace", "")): each for each in objects}


def refused(values: dict[str, Any]) -> str:
    with Chart.load(CHART) as chart, pytest.raises(HelmValuesError) as error:
        chart.validate_schema(values)
    return str(error.value)


def test_helm_lint_has_no_complaints() -> None:
    for arguments in ([], ["--set", "watchNamespaces=[a, b]"], ["--values", str(ROOT / "hack/cluster/values.yaml")]):
        command = [sys.executable, str(ROOT / "hack/helm.py"), "lint", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replicas": 2}, "replicas"),
        ({"image": {"name": "x"}}, "name"),
        ({"logLevel": "loud"}, "logLevel"),
        ({"watchNamespaces": ["Team A"]}, "watchNamespaces"),
        ({"watchNamespaces": "team-a"}, "watchNamespaces"),
    ],
)
def test_a_value_it_does_not_know_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    assert named in refused(values)


LOOK = {"get", "list", "watch"}
EDIT = {*LOOK, "create", "update", "patch", "delete", "deletecollection"}
# who: (the cluster's role, verbs over pipelines, may scale them, may write their status)
PEOPLE = {
    "viewer": ("view", LOOK, False, False),
    "editor": ("edit", EDIT, True, False),
    "admin": ("admin", EDIT, True, True),
}


@pytest.mark.parametrize("who", PEOPLE)
def test_what_people_may_do_is_added_to_the_clusters_roles(who: str) -> None:
    role = next(each for each in documents() if is_for_people(each) and each["metadata"]["name"].endswith(who))
    to, verbs, may_scale, may_write_status = PEOPLE[who]
    assert role["metadata"]["labels"][f"rbac.authorization.k8s.io/aggregate-to-{to}"] == "true"
    rules = {resource: set(rule["verbs"]) for rule in role["rules"] for resource in rule["resources"]}
    assert rules["omnipipelines"] == verbs
    assert ("patch" in rules["omnipipelines/scale"]) is may_scale
    assert ("patch" in rules["omnipipelines/status"]) is may_write_status


def test_no_role_of_the_cluster_is_added_to_where_that_is_not_wanted() -> None:
    for values in ({"aggregateRoles": False}, {"watchNamespaces": ["a"]}):
        assert not [each for each in documents(values) if is_for_people(each)]


@pytest.mark.parametrize(("values", "where"), [({}, "omni-system"), ({"watchNamespaces": ["a", "b"]}, "a")])
def test_helm_test_asks_a_small_pipeline_for_a_picture(values: dict[str, Any], where: str) -> None:
    objects = {each["kind"]: each for each in documents(values) if is_for_the_test(each)}
    assert set(objects) == {"ServiceAccount", "Role", "RoleBinding", "Pod"}
    assert {each["metadata"]["namespace"] for each in objects.values()} == {where}
    (test,) = objects["Pod"]["spec"]["containers"]
    assert test["command"] == ["python3", "-m", "omni_operator.commands.helm_test"]
    assert test["args"] == ["--namespace", where, "--name", "test-omnipipeline"]
    (rule,) = objects["Role"]["rules"]
    assert (rule["resources"], rule["verbs"]) == (["omnipipelines"], ["get", "create", "patch", "delete"])
    selector = rendered(values)["Deployment", "omni-system"]["spec"]["selector"]["matchLabels"].items()
    assert not selector <= objects["Pod"]["metadata"]["labels"].items(), "it must not count as the operator's pod"


def test_an_upgrade_of_the_chart_upgrades_its_one_definition() -> None:
    objects = {each["kind"]: each for each in documents() if hook(each) == "pre-upgrade"}
    assert set(objects) == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Job"}
    (rule,) = objects["ClusterRole"]["rules"]
    assert (rule["resourceNames"], rule["verbs"]) == (["omnipipelines.omnipipeline.dev"], ["get", "patch"])
    (job,) = objects["Job"]["spec"]["template"]["spec"]["containers"]
    assert job["command"] == ["python3", "-m", "omni_operator.commands.install_crd"]


@pytest.mark.parametrize("values", [{"crdUpgrade": False}, {"watchNamespaces": ["a"]}])
def test_the_definition_is_left_alone_where_that_is_wanted(values: dict[str, Any]) -> None:
    assert not [each for each in documents(values) if hook(each) == "pre-upgrade"]


def test_the_readme_has_every_value() -> None:
    command = [sys.executable, str(ROOT / "hack/chart_readme.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_value_has_a_place_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}


def test_it_ships_the_crd_of_the_project() -> None:
    assert (CHART / "crds/omnipipelines.yaml").read_text() == (ROOT / "crds/omnipipelines.yaml").read_text()


def test_the_whole_cluster_is_served_by_a_cluster_role() -> None:
    objects = rendered()
    assert {kind for kind, _ in objects} == {"ServiceAccount", "Deployment", "ClusterRole", "ClusterRoleBinding"}
    assert "--namespace" not in operator(objects)["args"]


def test_named_namespaces_are_served_by_a_role_in_each_and_no_cluster_role() -> None:
    objects = rendered({"watchNamespaces": ["a", "b"]})
    assert {where for kind, where in objects if kind == "Role"} == {"a", "b"}
    assert {where for kind, where in objects if kind == "RoleBinding"} == {"a", "b"}
    assert not [kind for kind, _ in objects if kind.startswith("Cluster")]
    assert operator(objects)["args"][-4:] == ["--namespace", "a", "--namespace", "b"]


def test_no_right_is_a_wildcard_and_secrets_are_known_by_name_only() -> None:
    rules = rendered()["ClusterRole", ""]["rules"]
    assert "*" not in json.dumps(rules)
    verbs = {resource: set(rule["verbs"]) for rule in rules for resource in rule["resources"]}
    assert set(verbs) == {
        "omnipipelines", "omnipipelines/status", "deployments", "services", "serviceaccounts", "configmaps", "pods",
        "secrets", "networkpolicies", "poddisruptionbudgets", "podmonitors", "jobs",
        "persistentvolumeclaims", "leases", "events",
    }  # fmt: skip
    assert verbs["secrets"] == {"get", "create", "patch"}


def test_the_operator_runs_once_and_confined() -> None:
    objects = rendered()
    spec = objects["Deployment", "omni-system"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert spec["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert operator(objects)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_images_default_to_the_version_of_the_chart() -> None:
    container = operator(rendered())
    assert container["image"] == "ghcr.io/omnipipeline/operator:0.1.0"
    assert container["args"][:3] == ["operator", "--worker-image", "ghcr.io/omnipipeline/worker:0.1.0"]


def operator(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    (container,) = objects["Deployment", "omni-system"]["spec"]["template"]["spec"]["containers"]
    return dict(container)
