"""A pipeline that asks for a PodMonitor: where the cluster has that kind, where it has not, and where it may not be."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.apiserver.add_ons import served
from tests.kubernetes.apiserver.faults import REFUSED, FaultyServer
from tests.kubernetes.apiserver.operators import CHILDREN, Kubectl, Operator, StartOperator, eventually, serve
from tests.kubernetes.apiserver.test_rights import chart_rules, limited_kubeconfig

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("alone")]
GROUP = "monitoring.coreos.com"
NAME = f"podmonitors.{GROUP}"


@pytest.fixture
def monitors(kubectl: Kubectl) -> Iterator[None]:
    """A cluster that has PodMonitors."""
    with served(kubectl, GROUP, "PodMonitor"):
        yield


@pytest.fixture
def monitored(digits: dict[str, Any]) -> dict[str, Any]:
    digits["spec"]["monitoring"] = {"podMonitor": {"labels": {"release": "ours"}, "interval": "15s"}}
    return digits


def patch(kubectl: Kubectl, monitoring: dict[str, Any]) -> None:
    kubectl("patch", "op", "digits", "--type=merge", "-p", json.dumps({"spec": {"monitoring": monitoring}}))


def test_a_monitor_is_made_kept_and_removed_and_no_pod_notices(
    kubectl: Kubectl, monitors: None, operator: Operator, monitored: dict[str, Any]
) -> None:
    before = serve(kubectl, monitored)
    (monitor,) = kubectl.items(NAME)
    (owner,) = monitor["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("OmniPipeline", "digits")
    assert monitor["metadata"]["labels"]["release"] == "ours"
    assert kubectl.condition("Degraded")["status"] == "False"
    kubectl("delete", NAME, "digits")
    eventually(lambda: kubectl.items(NAME), "the monitor again")
    kubectl("patch", NAME, "digits", "--type=merge", "-p", '{"spec": {"selector": {"matchLabels": null}}}')
    eventually(lambda: kubectl.get(NAME, "digits")["spec"] == monitor["spec"], "what it was")
    patch(kubectl, {"podMonitor": {"interval": "30s"}})
    endpoints = eventually(
        lambda: [each for each in interval_of(kubectl) if each == "30s"] and interval_of(kubectl), "the new interval"
    )
    assert endpoints == ["30s"]
    settled = kubectl.settled(), kubectl.get(NAME, "digits")["metadata"]["resourceVersion"]
    kubectl("annotate", "op/digits", "look=again")
    kubectl.settled()
    assert kubectl.get(NAME, "digits")["metadata"]["resourceVersion"] == settled[1]
    patch(kubectl, {"podMonitor": None})
    eventually(lambda: not kubectl.items(NAME), "the end of the monitor")
    after = kubectl.settled()
    assert {name for name in after if after[name] != before[name]} == {"OmniPipeline/digits"}


def interval_of(kubectl: Kubectl) -> list[str]:
    return [each["interval"] for each in kubectl.get(NAME, "digits")["spec"]["podMetricsEndpoints"]]


def is_told(kubectl: Kubectl, reason: str) -> bool:
    return bool(kubectl.condition("Degraded").get("reason") == reason)


def all_else_is_well(kubectl: Kubectl) -> bool:
    """The pods fit on no node, which is all there is to say against the pipeline."""
    return bool(sorted(kubectl.children()) == CHILDREN and kubectl.condition("Ready").get("reason") == "Unschedulable")


def test_without_the_kind_the_pipeline_is_made_without_and_says_so(
    kubectl: Kubectl, operator: Operator, monitored: dict[str, Any]
) -> None:
    if kubectl.exists("crd", NAME):
        pytest.skip("this cluster has the kind")
    serve(kubectl, monitored)
    assert is_told(kubectl, "KindMissing")
    assert "does not have that kind: PodMonitor" in kubectl.condition("Degraded")["message"]
    assert all_else_is_well(kubectl)


def test_a_monitor_that_is_refused_is_told_and_fails_nothing(
    kubectl: Kubectl, monitors: None, operator: Operator, monitored: dict[str, Any]
) -> None:
    kubectl("create", "quota", "none", f"--hard=count/{NAME}=0")
    eventually(lambda: kubectl.get("quota", "none").get("status", {}).get("hard"), "a quota that counts")
    kubectl.apply(monitored)
    eventually(lambda: is_told(kubectl, "Forbidden"), "a status that says so")
    assert "quota: none" in kubectl.condition("Degraded")["message"]
    eventually(lambda: all_else_is_well(kubectl), "everything else")
    kubectl("delete", "quota", "none")
    eventually(lambda: kubectl.items(NAME), "the monitor")
    eventually(lambda: is_told(kubectl, "AsExpected"), "a status without it")


def test_without_the_right_to_monitors_only_those_who_ask_for_one_hear_of_it(
    kubectl: Kubectl, monitors: None, start_operator: StartOperator, monitored: dict[str, Any], tmp_path: Path
) -> None:
    rules = [rule for rule in chart_rules() if rule["apiGroups"] != [GROUP]]
    start_operator(kubectl.namespace, kubeconfig=limited_kubeconfig(kubectl, rules, tmp_path))
    serve(kubectl, monitored)
    eventually(lambda: is_told(kubectl, "Forbidden"), "a status that says so")
    assert 'cannot list resource "podmonitors"' in kubectl.condition("Degraded")["message"]
    assert all_else_is_well(kubectl)
    patch(kubectl, {"podMonitor": None})
    eventually(lambda: is_told(kubectl, "AsExpected"), "a status without it")


@pytest.mark.parametrize("status", [500, 503])
def test_monitors_that_the_server_cannot_read_hold_up_nothing_and_are_made_once_it_can(
    kubectl: Kubectl,
    monitors: None,
    way: FaultyServer,
    start_operator: StartOperator,
    monitored: dict[str, Any],
    tmp_path: Path,
    status: int,
) -> None:
    """As with a conversion webhook that is down."""
    way.refused = {"/podmonitors": status}
    operator = start_operator(kubectl.namespace, kubeconfig=way.kubeconfig(tmp_path / "refusing.kubeconfig"))
    serve(kubectl, monitored)
    eventually(lambda: is_told(kubectl, REFUSED[status]), "a status that says so")
    assert all_else_is_well(kubectl)
    assert operator.log.read_text().count("watch of podmonitors in namespace") == 1, "logged once"
    way.refused = {}
    eventually(lambda: kubectl.items(NAME), "the monitor")
    eventually(lambda: is_told(kubectl, "AsExpected"), "a status without it")
