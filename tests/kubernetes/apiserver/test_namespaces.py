"""Pipelines end with all that is theirs, and those of several namespaces have nothing to do with each other."""

from typing import Any

import pytest

from tests.kubernetes.apiserver.operators import CHILDREN, Kubectl, Operator, StartOperator, eventually, serve

pytestmark = pytest.mark.apiserver


def test_children_go_with_the_pipeline_even_while_no_operator_runs(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    serve(kubectl, digits)
    operator.kill()
    kubectl("delete", "op", "digits", "--timeout=30s")
    eventually(lambda: not kubectl.children() and not kubectl.items("pods"), "the end of every child")


def test_a_namespace_goes_with_its_pipelines_while_no_operator_runs(
    kubectl: Kubectl, other: Kubectl, start_operator: StartOperator, digits: dict[str, Any]
) -> None:
    operator = start_operator(other.namespace)
    serve(other, digits)
    operator.kill()
    other("delete", "namespace", other.namespace, "--wait=false")
    eventually(lambda: not kubectl.exists("namespace", other.namespace), "the end of the namespace")
    kubectl("create", "namespace", other.namespace)


def test_a_pipeline_of_the_same_name_has_children_of_its_own(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    serve(kubectl, digits)
    before = {name: child["metadata"]["uid"] for name, child in kubectl.children().items()}
    kubectl("delete", "op", "digits", "--timeout=30s")
    kubectl.apply(digits)
    uid = kubectl.get("op", "digits")["metadata"]["uid"]

    def are_all_new() -> bool:
        children = kubectl.children()
        return sorted(children) == CHILDREN and all(
            child["metadata"]["ownerReferences"][0]["uid"] == uid and child["metadata"]["uid"] != before[name]
            for name, child in children.items()
        )

    eventually(are_all_new, "children of the new pipeline")


# ---- several


def test_pipelines_of_one_name_in_two_namespaces_are_apart(
    kubectl: Kubectl, other: Kubectl, start_operator: StartOperator, digits: dict[str, Any]
) -> None:
    start_operator(kubectl.namespace, other.namespace)
    serve(kubectl, digits)
    before = serve(other, digits)
    kubectl("scale", "op/digits", "--replicas=1")
    eventually(lambda: kubectl.get("op", "digits")["status"]["replicas"] == 1, "one painter here")
    kubectl("delete", "op", "digits")
    eventually(lambda: not kubectl.children(), "the end of the children here")
    assert other.settled() == before


def test_an_operator_keeps_to_its_namespaces(
    kubectl: Kubectl, other: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    other.apply(digits)
    serve(kubectl, digits)
    assert not other.children()
    assert other.get("op", "digits")["status"] == {"observedGeneration": -1}, "the default, since nobody has written it"
