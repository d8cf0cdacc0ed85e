"""Templates that make pods which the API server would refuse: told at the user's own field, before anything changes."""

import copy
from typing import Any

import pytest

from tests.kubernetes.apiserver.operators import Kubectl, Operator, eventually, serve

pytestmark = pytest.mark.apiserver
PATH = "spec.stages[0].template.spec"


def of_ours(**fields: Any) -> dict[str, Any]:
    return {"containers": [{"name": "sidecar", "image": "side:1"}, {"name": "omni", **fields}]}


# The spec of a template, the field that is to be named, and what is to be said of it.
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a value that is none of those known": (
        of_ours(imagePullPolicy="Sometimes"),
        "containers[1].imagePullPolicy",
        '"Sometimes" is refused by the API server: Unsupported value',
    ),
    "a value of another type": (
        of_ours(ports=[{"containerPort": "eighty"}]),
        "containers[1].ports[0].containerPort",
        '"eighty" is refused by the API server: expected numeric',
    ),
    "a field that there is not": (of_ours(imag="x"), "containers[1].imag", '"x" is refused by the API server'),
    "a mount of no volume, after the mounts of ours": (
        of_ours(volumeMounts=[{"name": "nowhere", "mountPath": "/data"}]),
        "containers[1].volumeMounts[0].name",
        '"nowhere" is refused by the API server: Not found',
    ),
    "a field of the pod": ({"restartPolicy": "Never"}, "restartPolicy", '"Never" is refused by the API server'),
}


@pytest.mark.parametrize("row", REFUSED)
def test_a_template_of_pods_that_would_be_refused_makes_none_of_the_children(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any], row: str
) -> None:
    spec, field, said = REFUSED[row]
    digits["spec"]["stages"][0]["template"] = {"spec": spec}
    kubectl.apply(digits)
    accepted = eventually(lambda: kubectl.condition("Accepted"), "a status")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert f"{PATH}.{field}: {said}" in accepted["message"]
    assert "correct it, or remove it from spec.stages[0].template" in accepted["message"]
    assert set(kubectl.settled()) <= {"OmniPipeline/digits", "Secret/digits-keys"}


@pytest.mark.parametrize("where", ["head", "stage"])
def test_such_a_template_changes_nothing_that_runs_and_is_told_until_it_is_corrected(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any], where: str
) -> None:
    before = serve(kubectl, digits)
    broken = copy.deepcopy(digits)
    broken["spec"] |= {"replicas": 5, "image": {"name": "worker:2"}}
    of = broken["spec"]["head"] if where == "head" else broken["spec"]["stages"][0]
    of["template"] = {"spec": of_ours(imagePullPolicy="Sometimes")}
    kubectl.apply(broken)
    eventually(lambda: kubectl.condition("Accepted")["status"] == "False", "the refusal")
    path = "spec.head.template" if where == "head" else "spec.stages[0].template"
    assert f"{path}.spec.containers[1].imagePullPolicy: " in kubectl.condition("Accepted")["message"]
    after = kubectl.settled()
    assert {name for name in after if after[name] != before[name]} == {"OmniPipeline/digits"}
    of["template"] = copy.deepcopy(digits["spec"]["head"]["template"])
    kubectl.apply(broken)
    eventually(lambda: kubectl.condition("Accepted")["status"] == "True", "acceptance again")
    eventually(lambda: kubectl.get("deployment", "digits-painter")["spec"]["replicas"] == 5, "the count")
