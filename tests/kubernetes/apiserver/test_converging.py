"""The operator against a real API server: the real command as a process, no nodes, so pods are made but never run."""

import contextlib
import copy
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.kubernetes.apiserver.conftest import NOWHERE
from tests.kubernetes.apiserver.faults import FaultyServer
from tests.kubernetes.apiserver.operators import CHILDREN, LABEL, Kubectl, Operator, StartOperator, eventually, serve

pytestmark = pytest.mark.apiserver


# ---- the definition


def test_explain_shows_what_the_fields_mean(kubectl: Kubectl) -> None:
    # The server publishes the descriptions a little after it begins to serve the kind.
    eventually(lambda: kubectl.tried("explain", "op.spec").returncode == 0, "the description of the kind")
    assert "Headless pods of this stage; absent means" in kubectl("explain", "op.spec.stages.replicas")
    assert "Secret with the access token" in kubectl("explain", "op.spec.model.tokenSecretRef")


def test_the_server_fills_in_defaults_but_no_count_of_a_stage(kubectl: Kubectl, digits: dict[str, Any]) -> None:
    digits["spec"] = {"model": {"source": "builtin://digits"}, "stages": [{"name": "painter", "engine": "diffusion"}]}
    kubectl.apply(digits)
    spec = kubectl.get("op", "digits")["spec"]
    assert spec["replicas"] == 1
    assert spec["loadBalancing"] == {"policy": "least-queue-length", "heartbeatTimeoutSeconds": 30}
    (stage,) = spec["stages"]
    assert stage["scheduling"] == {"mode": "step", "policy": "fifo", "maxNumSeqs": "auto", "maxWaiting": 256}
    assert stage["rollout"] == {"maxUnavailable": 1, "maxSurge": 0}
    assert "replicas" not in stage
    assert "accelerator" not in stage


REFUSED: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "a negative count": (("spec", "replicas"), -1, "spec.replicas"),
    "an unknown policy": (("spec", "loadBalancing"), {"policy": "psychic"}, "spec.loadBalancing.policy"),
    "a model of no form": (("spec", "model"), {"source": "digits"}, "spec.model.source"),
    "no stages": (("spec", "stages"), [], "spec.stages"),
    "no spec": (("spec",), None, "spec"),
    "two stages of one name": (
        ("spec", "stages"),
        [{"name": "painter", "engine": "diffusion"}] * 2,
        "spec.stages[1]",
    ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_the_server_refuses_invalid_values_and_names_the_field(
    kubectl: Kubectl, digits: dict[str, Any], row: str
) -> None:
    path, value, field = REFUSED[row]
    node = digits
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    refused = kubectl.tried("create", "-f", "-", stdin=yaml.safe_dump(digits))
    assert refused.returncode != 0
    assert field in refused.stderr


# ---- converging


def test_the_operator_answers_its_probe(kubectl: Kubectl, operator: Operator) -> None:
    def answer() -> httpx.Response | None:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{operator.probe_port}/healthz")
        return None

    assert eventually(answer, "an answer").json() == {"operator": "ok"}


def deployment_of(pod: dict[str, Any]) -> str:
    """What a pod is named after."""
    return str(pod["metadata"]["name"].rsplit("-", 2)[0])


def test_a_pipeline_becomes_owned_children_and_pods_and_is_left_alone_then(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    before = serve(kubectl, digits)
    writes = operator.writes()
    pipeline = kubectl.get("op", "digits")
    for child in kubectl.children().values():
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (pipeline["metadata"]["uid"], True)
    pods = kubectl.items("pods", LABEL)
    for pod in pods:
        (owner,) = pod["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["controller"]) == ("ReplicaSet", True)
    limits = sorted((deployment_of(pod), pod["spec"]["containers"][0]["resources"].get("limits")) for pod in pods)
    gpu = ("digits-painter", {"nvidia.com/gpu": "1"})
    assert limits == [("digits-head", {"memory": "4Gi"}), gpu, gpu]
    metadata = pipeline["metadata"]
    assert "finalizers" not in metadata
    assert [key for key in metadata["annotations"] if "kubectl" not in key] == []
    time.sleep(5)
    assert kubectl.versions() == before
    assert operator.writes() == writes


def test_passes_over_a_settled_pipeline_write_nothing_and_ask_for_two_objects_at_the_most(
    kubectl: Kubectl, way: FaultyServer, start_operator: StartOperator, digits: dict[str, Any], tmp_path: Path
) -> None:
    operator = start_operator(kubectl.namespace, kubeconfig=way.kubeconfig(tmp_path / "counting.kubeconfig"))
    serve(kubectl, digits)
    began, before = time.monotonic(), operator.passes()
    for number in range(1, 11):
        kubectl("annotate", "--overwrite", "op/digits", f"look={number}")
        eventually(lambda number=number: operator.passes() >= before + number, "another pass")
    calls = [call for call in way.calls if call.time >= began and not call.is_watch and "/leases" not in call.path]
    asked = [call.path.partition("?")[0].rpartition("/")[2] for call in calls]
    assert set(asked) <= {"digits", "secrets"}, "the pipeline, and whether its Secret still exists"
    assert len(asked) <= 2 * (operator.passes() - before)
    assert way.writes_since(began) == []


def test_the_status_counts_and_tells_why_pods_wait(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    serve(kubectl, digits)
    pipeline = kubectl.get("op", "digits")
    status = pipeline["status"]
    assert status["observedGeneration"] == pipeline["metadata"]["generation"]
    assert (status["replicas"], status["readyReplicas"], status["stages"][0]["desired"]) == (2, 0, 2)
    assert "fits on no node: " in status["stages"][0]["message"]
    assert kubectl.condition("Accepted")["status"] == "True"
    assert kubectl.condition("Ready")["status"] == "False"
    assert kubectl.condition("Progressing")["status"] == "True"
    scale = json.loads(
        kubectl(
            "get", "--raw", f"/apis/omnipipeline.dev/v1alpha1/namespaces/{kubectl.namespace}/omnipipelines/digits/scale"
        )
    )
    assert scale["status"] == {
        "replicas": 2,
        "selector": "omnipipeline.dev/pipeline=digits,omnipipeline.dev/role=replica,omnipipeline.dev/stage=painter",
    }
    row = kubectl("get", "op", "digits", "--no-headers").split()
    assert row[:6] == ["digits", "False", "Unschedulable", "2", "0", "builtin://digits"]


def test_a_restarted_operator_writes_nothing(
    kubectl: Kubectl, operator: Operator, start_operator: StartOperator, digits: dict[str, Any]
) -> None:
    before = serve(kubectl, digits)
    operator.kill()
    successor = start_operator(kubectl.namespace)
    # It has taken the pipeline up when it reacts to a change, which one of the children shows.
    kubectl("delete", "service", "digits")
    eventually(lambda: "Service/digits" in kubectl.children(), "the Service again")
    after = kubectl.settled()
    assert {name: version for name, version in after.items() if name != "Service/digits"} == {
        name: version for name, version in before.items() if name != "Service/digits"
    }
    assert successor.writes() == 1
    assert successor.stop() == 0


@pytest.mark.parametrize("how", ["scale", "edit"])
def test_another_count_changes_one_deployment_and_keeps_its_pods(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any], how: str
) -> None:
    before = serve(kubectl, digits)
    pods = {pod["metadata"]["uid"] for pod in kubectl.items("pods", LABEL)}
    if how == "scale":
        kubectl("scale", "op/digits", "--replicas=3")
    else:
        digits["spec"]["replicas"] = 3
        kubectl.apply(digits)
    eventually(lambda: len(kubectl.items("pods", LABEL)) == 4, "a third painter")
    eventually(lambda: kubectl.get("op", "digits")["status"]["replicas"] == 3, "the count in the status")
    after = kubectl.settled()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"OmniPipeline/digits", "Deployment/digits-painter"}
    assert pods < {pod["metadata"]["uid"] for pod in kubectl.items("pods", LABEL)}


def test_counts_in_quick_succession_end_at_the_last(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    serve(kubectl, digits)
    for count in (3, 1, 4, 2, 3):
        kubectl("scale", "op/digits", f"--replicas={count}")
    eventually(lambda: kubectl.get("op", "digits")["status"]["replicas"] == 3, "the last count")
    kubectl.settled()
    assert kubectl.get("deployment", "digits-painter")["spec"]["replicas"] == 3


def test_to_zero_and_back(kubectl: Kubectl, operator: Operator, digits: dict[str, Any]) -> None:
    serve(kubectl, digits)
    kubectl("scale", "op/digits", "--replicas=0")
    eventually(lambda: kubectl.condition("Ready")["reason"] == "ScaledToZero", "a status that says so")
    kubectl("scale", "op/digits", "--replicas=1")
    eventually(lambda: kubectl.get("op", "digits")["status"]["replicas"] == 1, "a painter again")


def test_labels_of_the_pipeline_restart_nothing(kubectl: Kubectl, operator: Operator, digits: dict[str, Any]) -> None:
    before = serve(kubectl, digits)
    kubectl("label", "op/digits", "team=a")
    kubectl("annotate", "op/digits", "note=b")
    after = kubectl.settled()
    assert {name for name in after if after[name] != before[name]} == {"OmniPipeline/digits"}


def test_a_renamed_stage_replaces_its_deployment(kubectl: Kubectl, operator: Operator, digits: dict[str, Any]) -> None:
    serve(kubectl, digits)
    digits["spec"]["stages"][0]["name"] = digits["spec"]["head"]["stage"] = "brush"
    kubectl.apply(digits)
    eventually(lambda: "Deployment/digits-brush" in kubectl.children(), "the new Deployment")
    eventually(lambda: "Deployment/digits-painter" not in kubectl.children(), "the end of the old Deployment")


def test_a_rehearsal_of_an_edit_changes_nothing(kubectl: Kubectl, operator: Operator, digits: dict[str, Any]) -> None:
    another = copy.deepcopy(digits)
    another["metadata"]["name"] = "another"
    before = serve(kubectl, digits)
    digits["spec"]["replicas"] = 5
    for manifest in (digits, another):
        kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(manifest))
    assert kubectl.settled() == before


# ---- several stages


def pods_of(kubectl: Kubectl) -> dict[str, set[str]]:
    """The uids of the pods that are to stay, by their stage; the head's under its own name."""
    found: dict[str, set[str]] = {}
    for pod in kubectl.items("pods", LABEL):
        labels = pod["metadata"]["labels"]
        role = labels["omnipipeline.dev/role"]
        if not pod["metadata"].get("deletionTimestamp"):
            stage = "head" if role == "head" else labels["omnipipeline.dev/stage"]
            found.setdefault(stage, set()).add(pod["metadata"]["uid"])
    return found


def test_each_stage_is_scaled_by_itself(kubectl: Kubectl, operator: Operator, two: dict[str, Any]) -> None:
    before, pods = serve(kubectl, two), pods_of(kubectl)
    two["spec"]["stages"][0]["replicas"] = 3
    kubectl.apply(two)
    eventually(lambda: len(pods_of(kubectl)["thinker"]) == 3, "three thinkers")
    eventually(lambda: kubectl.get("op", "digits-thinker")["status"]["pods"] == 4, "the count in the status")
    after = kubectl.settled()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"OmniPipeline/digits-thinker", "Deployment/digits-thinker-thinker"}
    assert (pods_of(kubectl)["painter"], pods_of(kubectl)["head"]) == (pods["painter"], pods["head"])
    stages = kubectl.get("op", "digits-thinker")["status"]["stages"]
    assert [(stage["name"], stage["desired"]) for stage in stages] == [("thinker", 3), ("painter", 1)]


def test_a_stage_in_front_restarts_the_head_alone_and_goes_again_without_a_trace(
    kubectl: Kubectl, operator: Operator, two: dict[str, Any]
) -> None:
    serve(kubectl, two)
    pods = pods_of(kubectl)
    rewriter = {"name": "rewriter", "engine": "autoregressive", "replicas": 1, "template": NOWHERE}
    more = copy.deepcopy(two)
    more["spec"]["stages"] = [rewriter, *two["spec"]["stages"]]
    serve(kubectl, more)
    eventually(lambda: pods_of(kubectl).get("head", set()).isdisjoint(pods["head"]), "another head")
    assert {stage: pods_of(kubectl)[stage] for stage in ("thinker", "painter")} == {
        stage: pods[stage] for stage in ("thinker", "painter")
    }
    serve(kubectl, two)
    assert pods_of(kubectl).keys() == pods.keys()
    assert pods_of(kubectl)["painter"] == pods["painter"]


# ---- healing


def test_deleted_children_come_back(kubectl: Kubectl, operator: Operator, digits: dict[str, Any]) -> None:
    serve(kubectl, digits)
    children = kubectl.children()
    before = {name: child["metadata"]["uid"] for name, child in children.items()}
    for child in children.values():
        kubectl("delete", child["kind"].lower(), child["metadata"]["name"], "--wait=false")

    def are_back() -> bool:
        after = {name: child["metadata"]["uid"] for name, child in kubectl.children().items()}
        return sorted(after) == CHILDREN and not set(after.values()) & set(before.values())

    eventually(are_back, "every child again")


def test_what_someone_changes_is_changed_back_and_what_they_add_stays(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    serve(kubectl, digits)
    kubectl("scale", "deployment/digits-painter", "--replicas=9")
    kubectl("patch", "configmap", "digits", "--type=merge", "-p", '{"data": {"stages.json": "{}", "mine": "1"}}')
    eventually(lambda: kubectl.get("deployment", "digits-painter")["spec"]["replicas"] == 2, "the count")
    eventually(lambda: "painter" in kubectl.get("configmap", "digits")["data"]["stages.json"], "the stage config")
    assert kubectl.get("configmap", "digits")["data"]["mine"] == "1"
    kubectl.settled()
    label = "omnipipeline.dev/pipeline"
    for kind in ("service", "networkpolicy"):
        kubectl("label", f"{kind}/digits", "omnipipeline.dev/pipeline-", "app.kubernetes.io/managed-by-", "team=a")
        eventually(
            lambda kind=kind: kubectl.get(kind, "digits")["metadata"]["labels"].get(label) == "digits", "the label"
        )
        assert kubectl.get(kind, "digits")["metadata"]["labels"]["team"] == "a"


# ---- refusing


def test_an_invalid_edit_is_named_and_touches_nothing(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    before = serve(kubectl, digits)
    broken = copy.deepcopy(digits)
    broken["spec"]["head"]["template"] = {"env": []}  # the API server does not know what a template is
    broken["spec"]["replicas"] = 5
    kubectl.apply(broken)
    eventually(lambda: kubectl.condition("Accepted")["status"] == "False", "the refusal")
    accepted = kubectl.condition("Accepted")
    assert accepted["reason"] == "InvalidSpec"
    path = "spec.head.template.env"
    assert accepted["message"] == f"{path}: is not part of a pod template; expected one of: metadata, spec"
    assert kubectl.condition("Ready")["reason"] == "NotAccepted"
    after = kubectl.settled()
    assert {name for name in after if after[name] != before[name]} == {"OmniPipeline/digits"}
    kubectl.apply(digits)
    eventually(lambda: kubectl.condition("Accepted")["status"] == "True", "acceptance again")


# What somebody made under a name that a pipeline wants: the second one is in no field's way.
FOREIGN = {
    "Service/digits": {"spec": {"ports": [{"port": 80}], "selector": {"app": "mine"}}},
    "ConfigMap/digits": {"metadata": {"name": "digits", "labels": {"team": "a"}}},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_an_object_of_someone_else_is_a_conflict_and_stays_as_it_is(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any], name: str
) -> None:
    kind = name.partition("/")[0]
    kubectl.apply({"apiVersion": "v1", "kind": kind, "metadata": {"name": "digits"}, **FOREIGN[name]})
    before = kubectl.get(kind, "digits")
    kubectl.apply(digits)
    eventually(lambda: kubectl.condition("Ready").get("reason") == "NameConflict", "the conflict")
    assert f"{kind} digits exists and is not ours" in kubectl.condition("Ready")["message"]
    assert sorted(kubectl.children()) == [child for child in CHILDREN if child != name]
    assert kubectl.get(kind, "digits") == before
    kubectl("delete", kind, "digits")
    eventually(lambda: name in kubectl.children(), "our own, once the name is free")
