"""The chart without a cluster: it lints, refuses what it does not know, and grants no more than the operator needs."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Chart, HelmValuesError

from omni_operator.planning.topology.records import CLUSTER_HEAD

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/omnipipeline"


def documents(values: dict[str, Any] | None = None, namespace: str = "omni-system") -> list[dict[str, Any]]:
    """All that the chart renders, the pod of `helm test` and what is its own too."""
    with Chart.load(CHART) as chart:
        files = chart.render(values or {}, name="omnipipeline", namespace=namespace)
    return parsed(files)


def parsed(files: Mapping[str, str]) -> list[dict[str, Any]]:
    """The objects in rendered files. Raises AssertionError for a key that a mapping has twice."""
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [each for text in texts for each in yaml.load_all(text, UniqueKeys) if each]


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, as the API server does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]  # type: ignore[no-untyped-call]
        assert len(set(keys)) == len(keys), f"twice in {node.start_mark}: {keys}"
        return super().construct_mapping(node, deep)


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
        ({"replica": 2}, "replica"),
        ({"replicas": -1}, "replicas"),
        ({"maxUpgrades": 0}, "maxUpgrades"),
        ({"image": {"digest": "sha256:7"}}, "digest"),
        ({"image": {"tag": 1.2}}, "tag"),
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
    assert set(values) == set(schema["properties"]) - {"global", "enabled", "tags"}


def test_it_ships_the_crd_of_the_project() -> None:
    assert (CHART / "crds/omnipipelines.yaml").read_text() == (ROOT / "crds/omnipipelines.yaml").read_text()


def test_the_whole_cluster_is_served_by_a_cluster_role() -> None:
    objects = rendered()
    kinds = {"ServiceAccount", "Deployment", "NetworkPolicy"}
    kinds |= {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
    assert {kind for kind, _ in objects} == kinds
    assert "--namespace" not in operator(objects)["args"]


def test_named_namespaces_are_served_by_a_role_in_each_and_no_cluster_role() -> None:
    objects = rendered({"watchNamespaces": ["a", "b"]})
    assert {where for kind, where in objects if kind == "Role"} == {"a", "b"}
    assert {where for kind, where in objects if kind == "RoleBinding"} == {"a", "b"}
    assert not [kind for kind, _ in objects if kind.startswith("Cluster")]
    assert operator(objects)["args"][-4:] == ["--namespace", "a", "--namespace", "b"]


CHILD = {"get", "list", "watch", "create", "patch", "delete"}
# Every right that the operator needs beyond Leases, and the calls of `kube.client` that need it.
RIGHTS = {
    "omnipipelines": LOOK,
    "omnipipelines/status": {"patch"},
    "deployments": CHILD,
    "daemonsets": CHILD,
    "jobs": CHILD,
    "services": CHILD,
    "serviceaccounts": CHILD,
    "configmaps": CHILD,
    "persistentvolumeclaims": CHILD,
    "networkpolicies": CHILD,
    "poddisruptionbudgets": CHILD,
    "resourceclaimtemplates": CHILD,
    "podmonitors": CHILD,
    "httproutes": CHILD,
    "pods": {"list", "watch", "patch"},  # patch: which pods go first when a stage is scaled down
    "secrets": {"create"},
    "events": {"create"},
}
BY_NAME = [("leases", None, {"create"}), ("leases", "omni-operator", {"get", "update"})]
CLUSTER = "omni-operator-all"


def rights(role: dict[str, Any]) -> tuple[dict[str, set[str]], list[tuple[str, str | None, set[str]]]]:
    """What a role allows for all objects of a resource, and about Leases: resource, name and verbs."""
    leases = [rule for rule in role["rules"] if rule["resources"] == ["leases"]]
    others = [rule for rule in role["rules"] if rule not in leases]
    assert not [rule for rule in others if "resourceNames" in rule]
    by_name = [("leases", *(rule.get("resourceNames") or [None]), set(rule["verbs"])) for rule in leases]
    return {resource: set(rule["verbs"]) for rule in others for resource in rule["resources"]}, by_name


def test_the_cluster_role_allows_the_calls_that_are_made_and_no_more() -> None:
    role = rendered()["ClusterRole", ""]
    assert "*" not in json.dumps(role["rules"])
    assert rights(role) == (RIGHTS, [("leases", "omni-operator", {"list", "watch"})])


def test_the_lease_of_the_whole_clusters_operator_is_in_its_own_namespace() -> None:
    role = rendered()["Role", "omni-system"]
    assert rights(role) == ({}, [BY_NAME[0], ("leases", CLUSTER, {"get", "update"})])


@pytest.mark.parametrize("namespace", ["a", "b"])
def test_a_role_for_named_namespaces_allows_the_same_there_with_their_own_lease(namespace: str) -> None:
    assert rights(rendered({"watchNamespaces": ["a", "b"]})["Role", namespace]) == (RIGHTS, BY_NAME)


def test_no_role_may_update_a_lease_without_a_name() -> None:
    for values in ({}, {"watchNamespaces": ["a"]}):
        rules = [rule for each in documents(values) for rule in each.get("rules") or []]
        for rule in rules:
            if "leases" in rule.get("resources", ()) and set(rule["verbs"]) - {"create"}:
                assert rule["resourceNames"]


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


SETTINGS = {
    "tolerations": [{"key": "pool", "operator": "Exists"}],
    "nodeSelector": {"pool": "system"},
    "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "infra",
}
OWN = {
    **SETTINGS,
    "imagePullSecrets": ["registry"],
    "resources": {
        "requests": {"cpu": "1", "memory": "64Mi", "ephemeral-storage": "16Mi"},
        "limits": {"memory": "256Mi"},
    },
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "podAnnotations": {"sidecar.istio.io/inject": "false", "helm.sh/hook": "mine"},
    "podLabels": {"team": "a", "app.kubernetes.io/name": "mine"},
    "image": {"repository": "registry.example/operator", "tag": "7", "pullPolicy": "Always"},
}


def pods(values: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The metadata and the spec of every pod of the chart, by the kind of what makes it."""
    made = {each["kind"]: each for each in documents(values) if each["kind"] in ("Deployment", "Job", "Pod")}
    assert set(made) == {"Deployment", "Job", "Pod"}
    return {kind: each if kind == "Pod" else each["spec"]["template"] for kind, each in made.items()}


@pytest.mark.parametrize("kind", ["Deployment", "Job", "Pod"])
def test_the_values_of_pods_reach_every_pod(kind: str) -> None:
    pod = pods(OWN)[kind]
    assert {key: pod["spec"].get(key) for key in SETTINGS} == SETTINGS
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    (container,) = pod["spec"]["containers"]
    assert (container["resources"], container["env"]) == (OWN["resources"], OWN["env"])
    assert (container["image"], container["imagePullPolicy"]) == ("registry.example/operator:7", "Always")
    assert pod["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"].startswith("omnipipeline-"), "selectors depend on it"
    if kind == "Pod":
        assert hook(pod) == "test"


@pytest.mark.parametrize("kind", ["Deployment", "Job", "Pod"])
def test_every_pod_is_confined_and_insists_on_no_user_id(kind: str) -> None:
    spec = pods()[kind]["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} <= container["resources"].keys(), "a quota may ask for them"
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(walk(spec))


def walk(node: Any) -> list[str]:
    """All keys of a document."""
    if isinstance(node, list):
        return [key for item in node for key in walk(item)]
    if not isinstance(node, dict):
        return []
    return [*node, *(key for item in node.values() for key in walk(item))]


@pytest.mark.parametrize("image", ["operator", "worker"])
def test_the_user_of_an_image_is_a_number_and_another_one_has_a_home_and_a_name(image: str) -> None:
    """runAsNonRoot needs a number. A cluster may assign any user: it has no entry in /etc/passwd."""
    lines = (ROOT / image / "Dockerfile").read_text().splitlines()
    assert "USER 65532:65532" in lines
    (environment,) = (line for line in lines if line.startswith("ENV PATH="))
    assert {"HOME=/tmp", "USER=omni"} <= set(environment.split())


# ---- as a dependency of another chart


def test_replicas_and_upgrades_are_values() -> None:
    objects = rendered({"replicas": 3, "maxUpgrades": 5})
    assert objects["Deployment", "omni-system"]["spec"]["replicas"] == 3
    arguments = operator(objects)["args"]
    assert arguments[arguments.index("--max-upgrades") + 1] == "5"


def test_only_probes_and_metrics_of_the_operator_can_be_reached() -> None:
    policy = rendered()["NetworkPolicy", "omni-system"]["spec"]
    deployment = rendered()["Deployment", "omni-system"]["spec"]
    assert policy["podSelector"] == deployment["selector"]
    assert policy["policyTypes"] == ["Ingress"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["probes", "metrics"]
    assert ("NetworkPolicy", "omni-system") not in rendered({"networkPolicy": {"enabled": False}})


def test_egress_of_the_operator_can_be_limited() -> None:
    server = {"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [{"port": 6443}]}
    peers = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    policy = rendered({"networkPolicy": {"egress": [server], "metricsFrom": peers}})["NetworkPolicy", "omni-system"][
        "spec"
    ]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"][1]["from"] == peers
    assert policy["egress"][-1] == server
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [53, 53, CLUSTER_HEAD.api, 6443]


def test_every_pod_requests_cpu_memory_and_disk_and_limits_its_scratch_volume() -> None:
    pods = [each["spec"].get("template", each) for each in documents() if each["kind"] in ("Deployment", "Job", "Pod")]
    assert len(pods) == 3
    for pod in pods:
        for container in pod["spec"]["containers"]:
            assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"]["requests"].keys()
        scratch = [volume["emptyDir"] for volume in pod["spec"]["volumes"] if "emptyDir" in volume]
        assert all("sizeLimit" in volume for volume in scratch)
