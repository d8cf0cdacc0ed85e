"""Suspended and paused pipelines on a real API server: what stays, what goes, and what comes back."""

from typing import Any

import pytest

from tests.kubernetes.apiserver.kubelet import Kubelet, names_of
from tests.kubernetes.apiserver.operators import LABEL, Kubectl, Operator, eventually, serve

pytestmark = pytest.mark.apiserver


def test_a_suspended_pipeline_keeps_all_but_its_pods_and_resumes(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    serve(kubectl, digits)
    before = {name: child["metadata"]["uid"] for name, child in kubectl.children().items()}
    kubectl("patch", "op", "digits", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    eventually(lambda: kubectl.condition("Suspended")["status"] == "True", "the suspension")
    assert kubectl.condition("Ready")["reason"] == "Suspended"
    assert {name: child["metadata"]["uid"] for name, child in kubectl.children().items()} == before
    eventually(lambda: not kubectl.items("pods", LABEL), "no pods")
    kubectl("patch", "op", "digits", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    eventually(lambda: len(kubectl.items("pods", LABEL)) == 3, "the head and both painters again")
    eventually(lambda: kubectl.condition("Suspended")["status"] == "False", "a status that says so")
    assert kubectl.get("deployment", "digits-painter")["metadata"]["generation"] == 3, "scaled twice, never edited"


def test_the_stages_keep_their_pods_until_the_head_has_drained(
    kubectl: Kubectl, kubelet: Kubelet, operator: Operator, serving: dict[str, Any]
) -> None:
    (head,) = names_of(kubectl.items("pods", LABEL), "head")
    kubectl("patch", "op", "digits", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    eventually(lambda: kubectl.get("pod", head)["metadata"].get("deletionTimestamp"), "a head that drains")
    kubectl.settled()
    assert len(names_of(kubectl.items("pods", LABEL), "replica")) == 3
    assert kubectl.condition("Suspended")["status"] == "False"
    eventually(lambda: not kubelet.look() and not kubectl.items("pods", LABEL), "the end of all pods")
    eventually(lambda: kubectl.condition("Suspended")["status"] == "True", "a status that says so")


def test_a_paused_pipeline_is_left_alone_until_it_is_not(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    serve(kubectl, digits)
    kubectl("patch", "op", "digits", "--type=merge", "-p", '{"spec": {"paused": true, "replicas": 5}}')
    eventually(lambda: kubectl.condition("Progressing")["reason"] == "Paused", "a status that says so")
    kubectl("delete", "service", "digits")
    writes = operator.writes()
    kubectl.settled()
    assert "Service/digits" not in kubectl.children()
    assert operator.writes() == writes
    assert kubectl.get("deployment", "digits-painter")["spec"]["replicas"] == 2
    kubectl("patch", "op", "digits", "--type=merge", "-p", '{"spec": {"paused": false}}')
    eventually(lambda: "Service/digits" in kubectl.children(), "the Service again")
    eventually(lambda: kubectl.get("deployment", "digits-painter")["spec"]["replicas"] == 5, "the count")
