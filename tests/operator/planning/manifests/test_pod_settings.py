"""The typed fields of heads and stages in their pods."""

from typing import Any

import jsonschema
import pytest

from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from tests.operator.crd.rules.cel import violations
from tests.operator.crd.test_schema import as_json_schema, root
from tests.operator.edits import edited
from tests.operator.rendered import container, pod, rendered

OF_DEVICES = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
SPOT = {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
NODES = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}


@pytest.mark.parametrize(("owner", "name"), [("spec.head", "digits-head"), ("spec.stages.0", "digits-painter")])
def test_settings_reach_the_pods(digits: dict[str, Any], owner: str, name: str) -> None:
    settings = {
        "resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"memory": "8Gi"}},
        "affinity": NODES,
        "podLabels": {"team": "a", "omnipipeline.dev/role": "other"},
        "podAnnotations": {"sidecar.istio.io/inject": "false"},
        "env": [
            {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
            {"name": "HOME"},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b", "optional": True}}},
        ],
        "extraArgs": ["--log-level=debug", "--step-timeout=9"],
        "topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname"}],
    }
    manifest = edited(digits, {f"{owner}.{key}": value for key, value in settings.items()})
    template, omni, own = pod(manifest, name), container(manifest, name), pod(digits, name)
    assert template["spec"]["affinity"] == NODES
    assert template["metadata"]["labels"] == {**own["metadata"]["labels"], "team": "a"}
    assert template["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    assert omni["resources"]["requests"]["cpu"] == "2"
    assert (omni["resources"]["requests"]["memory"], omni["resources"]["limits"]["memory"]) == ("4Gi", "8Gi")
    assert omni["args"] == [*container(digits, name)["args"], "--log-level=debug", "--step-timeout=9"]
    variables = {one["name"]: one for one in omni["env"]}
    assert variables["HTTPS_PROXY"]["value"] == "http://proxy:3128"
    assert variables["HOME"] == {"name": "HOME", "value": ""}
    assert variables["SECRET"]["valueFrom"]["secretKeyRef"] == {"name": "a", "key": "b", "optional": True}
    assert variables["POD_IP"] == {one["name"]: one for one in container(digits, name)["env"]}["POD_IP"]
    (spread,) = template["spec"]["topologySpreadConstraints"]
    selector = rendered(manifest)["Deployment", name]["spec"]["selector"]
    assert spread == {
        "topologyKey": "kubernetes.io/hostname",
        "maxSkew": 1,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": selector,
    }
    assert violations(manifest) == {}


def test_pods_with_devices_tolerate_the_taint_of_their_nodes(digits: dict[str, Any]) -> None:
    assert pod(digits)["spec"]["tolerations"] == [OF_DEVICES]
    assert OF_DEVICES not in pod(digits, "digits-head")["spec"]["tolerations"]
    both = edited(digits, {"spec.stages.0.tolerations": [SPOT], "spec.head.tolerations": [SPOT]})
    assert pod(both)["spec"]["tolerations"] == [OF_DEVICES, SPOT]
    assert pod(both, "digits-head")["spec"]["tolerations"][-1] == SPOT
    others = edited(digits, {"spec.stages.0.accelerator": {"resource": "amd.com/gpu"}})
    assert pod(others)["spec"]["tolerations"][0]["key"] == "amd.com/gpu"
    claimed = edited(digits, {"spec.stages.0.accelerator": {"deviceClassName": "gpu.nvidia.com"}})
    assert "tolerations" not in pod(claimed)["spec"]


def test_downloads_run_where_the_stage_runs(digits: dict[str, Any]) -> None:
    cached = edited(
        digits,
        {
            "spec.model": {"source": "hf://a/b", "cache": {"size": "1Gi", "prefetch": True}},
            "spec.stages.0.tolerations": [SPOT],
            "spec.stages.0.affinity": NODES,
            "spec.stages.0.env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "spec.stages.0.topologySpreadConstraints": [{"topologyKey": "zone"}],
        },
    )
    (job,) = [child for (kind, _), child in rendered(cached).items() if kind == "Job"]
    spec = job["spec"]["template"]["spec"]
    assert spec["tolerations"] == [OF_DEVICES, SPOT]
    assert spec["affinity"] == NODES
    assert "topologySpreadConstraints" not in spec
    assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in spec["containers"][0]["env"]


def test_the_template_overrides_the_fields_and_removes_what_the_operator_sets(digits: dict[str, Any]) -> None:
    template = {"spec": {"tolerations": [SPOT], "automountServiceAccountToken": None, "affinity": {}}}
    manifest = edited(digits, {"spec.stages.0.affinity": NODES, "spec.stages.0.template": template})
    assert pod(manifest)["spec"]["tolerations"] == [SPOT]
    assert "automountServiceAccountToken" not in pod(manifest)["spec"]


@pytest.mark.parametrize("name", ["digits-head", "digits-painter"])
@pytest.mark.parametrize(
    "port",
    [
        {"name": "debug", "containerPort": 5678},
        {"containerPort": 8000},
        {"name": "mine", "containerPort": 8000, "protocol": "UDP"},
    ],
    ids=["a port of another number", "the number of ours", "ours under another name"],
)
def test_a_template_adds_ports_and_takes_none_away(digits: dict[str, Any], name: str, port: dict[str, Any]) -> None:
    template = {"spec": {"containers": [{"name": "omni", "ports": [port]}]}}
    manifest = edited(digits, {"spec.stages.0.template": template, "spec.head.template": template})
    own = container(digits, name)["ports"]
    added = [port] if port["containerPort"] == 5678 else []
    assert container(manifest, name)["ports"] == [*own, *added]
    without = edited(digits, {"spec.stages.0.template": {"spec": {"containers": [{"name": "omni", "ports": None}]}}})
    assert container(without)["ports"] == container(digits)["ports"]


def test_arguments_of_a_template_are_added_to_the_command_line(digits: dict[str, Any]) -> None:
    template = {"spec": {"containers": [{"name": "omni", "args": ["--step-timeout=9"]}]}}
    edits = {"spec.stages.0.template": template, "spec.stages.0.extraArgs": ["--log-level=debug"]}
    own = container(digits)["args"]
    assert container(edited(digits, edits))["args"] == [*own, "--log-level=debug", "--step-timeout=9"]
    removed = {"spec.stages.0.template": {"spec": {"containers": [{"name": "omni", "args": None}]}}}
    assert container(edited(digits, removed))["args"] == own


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "the whole command line": (
        {"template": {"spec": {"containers": [{"name": "omni", "args": ["--step-timeout=9", "serve"]}]}}},
        'template.spec.containers[0].args[1]: "serve": is no flag of omni serve that can be added here',
    ),
    "an unknown flag": ({"extraArgs": ["--log-leve=debug"]}, "did you mean --log-level?"),
    "a flag that has a field": ({"extraArgs": ["--max-waiting=1"]}, "set spec.stages[].scheduling.maxWaiting instead"),
    "a flag of the operator": ({"extraArgs": ["--insecure"]}, "the operator sets this flag; remove it"),
    "a flag without its value": ({"extraArgs": ["--log-level"]}, "has no value; write --log-level=VALUE as one item"),
    "a flag and its value apart": ({"extraArgs": ["--log-level", "debug"]}, "extraArgs[1]"),
    "another command": ({"extraArgs": ["head"]}, "is no flag of omni serve that can be added here"),
    "a variable of two values": (
        {"env": [{"name": "A", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]},
        "has both value and valueFrom",
    ),
    "a variable from nowhere": ({"env": [{"name": "A", "valueFrom": {}}]}, "expected one of secretKeyRef,"),
    "the pod's address": ({"env": [{"name": "POD_IP", "value": "10.0.0.1"}]}, "choose another name"),
    "a variable twice": ({"env": [{"name": "A"}, {"name": "A", "value": "b"}]}, "A occurs more than once"),
    "memory in thousandths": ({"resources": {"limits": {"memory": "512m"}}}, "did you mean 512Mi?"),
    "a disk in thousandths": ({"resources": {"requests": {"ephemeral-storage": "8m"}}}, "did you mean 8Mi?"),
    "no quantity": ({"resources": {"requests": {"cpu": "two"}}}, "expected a quantity, like 2, 500m or 4Gi"),
    "a taint that is no mapping": ({"tolerations": ["gpu"]}, "tolerations[0]"),
    "an unknown effect": ({"tolerations": [{"effect": "NoRun"}]}, "expected one of: NoSchedule, PreferNoSchedule"),
    "a constraint without a key": ({"topologySpreadConstraints": [{}]}, "topologyKey: is missing"),
}
# A template has no schema, and that names are unique is said by the key of the list.
NOT_BY_THE_SCHEMA = ("the whole command line", "a variable twice")


@pytest.mark.parametrize("owner", ["spec.head", "spec.stages.0"])
@pytest.mark.parametrize("row", REFUSED)
def test_refused_with_field_value_and_remedy(digits: dict[str, Any], row: str, owner: str) -> None:
    settings, expected = REFUSED[row]
    manifest = edited(digits, {f"{owner}.{key}": value for key, value in settings.items()})
    with pytest.raises(InvalidSpec) as caught:
        parse(manifest)
    assert expected in str(caught.value)
    path = owner.replace("stages.0", "stages[0]")
    assert all(problem.path.startswith(f"{path}.") for problem in caught.value.problems)


@pytest.mark.parametrize("row", [row for row in REFUSED if row not in NOT_BY_THE_SCHEMA])
def test_the_schema_refuses_the_same(digits: dict[str, Any], row: str) -> None:
    manifest = edited(digits, {f"spec.head.{key}": value for key, value in REFUSED[row][0].items()})
    has_types = jsonschema.Draft7Validator(as_json_schema(root())).is_valid(manifest)
    assert not has_types or violations(manifest)
