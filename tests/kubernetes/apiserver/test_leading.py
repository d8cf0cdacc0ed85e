"""Two operators for the same namespace: one acts, the other takes over when it ends, and never do both write."""

from typing import Any

import pytest

from tests.kubernetes.apiserver.operators import Kubectl, Operator, StartOperator, eventually, serve

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("alone")]
ACTS = "acts from now on"


def holder(kubectl: Kubectl) -> str:
    leases = [lease for lease in kubectl.items("leases") if lease["metadata"]["name"] == "omni-operator"]
    return str(leases[0]["spec"].get("holderIdentity", "")) if leases else ""


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
def test_another_operator_takes_over(
    kubectl: Kubectl, start_operator: StartOperator, digits: dict[str, Any], is_killed: bool
) -> None:
    first = start_operator(kubectl.namespace)
    eventually(lambda: ACTS in first.log.read_text(), "an operator that acts")
    second = start_operator(kubectl.namespace)
    serve(kubectl, digits)
    before = holder(kubectl)
    assert first.writes()
    assert second.writes() == 0
    assert ACTS not in second.log.read_text()
    first.kill() if is_killed else first.stop()
    kubectl("scale", "op/digits", "--replicas=5")
    eventually(lambda: kubectl.get("deployment", "digits-painter")["spec"]["replicas"] == 5, "the new count", 45)
    assert ACTS in second.log.read_text()
    assert holder(kubectl) not in ("", before)
    kubectl.settled()
    assert second.writes() == 1, "one Deployment, and nothing that the first had written already"


def test_the_operator_tells_of_its_work_and_a_settled_pipeline_makes_no_event(
    kubectl: Kubectl, start_operator: StartOperator, digits: dict[str, Any]
) -> None:
    operator = start_operator(kubectl.namespace)
    serve(kubectl, digits)
    labels = f'pipeline="digits",pipeline_namespace="{kubectl.namespace}",stage="painter"'
    assert f'omni_operator_stage_pods{{kind="desired",{labels}}} 2.0' in operator.metrics()
    assert 'omni_operator_api_calls_total{code="200",verb="PATCH"}' in operator.metrics()
    assert 'omni_operator_reconcile_seconds_count{result="done"}' in operator.metrics()

    def told() -> list[str]:
        events = kubectl.items("events")
        return sorted(one["reason"] for one in events if one["involvedObject"]["kind"] == "OmniPipeline")

    assert told() == ["Created", "Unschedulable"]
    kubectl("scale", "op/digits", "--replicas=5")
    eventually(lambda: told() == ["Created", "Scaled", "Unschedulable"], "an Event of the new count")


def set_count(kubectl: Kubectl, count: int, seconds: float = 60) -> None:
    """Ask for a count, and wait until whichever operator has written it."""
    kubectl("scale", "op/digits", f"--replicas={count}")
    found = ("deployment", "digits-painter")
    eventually(lambda: kubectl.get(*found)["spec"]["replicas"] == count, "the new count", seconds)


def writes_in(operator: Operator, kubectl: Kubectl) -> int:
    lines = operator.log.read_text().splitlines()
    return sum(f" {kubectl.namespace}/" in line for line in lines if " applied " in line or " deleted " in line)


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
def test_an_operator_for_all_namespaces_leaves_those_alone_that_another_is_for(
    kubectl: Kubectl, other: Kubectl, start_operator: StartOperator, digits: dict[str, Any], is_killed: bool
) -> None:
    for_all = start_operator()
    for team in (kubectl, other):
        serve(team, digits)
    for_one = start_operator(kubectl.namespace)
    left = f"namespace {kubectl.namespace} is left to the operator that holds the Lease there"
    eventually(lambda: left in for_all.log.read_text(), "an operator that keeps out")
    before = writes_in(for_all, kubectl)
    set_count(kubectl, 4)
    set_count(other, 5)
    kubectl.settled()
    assert (writes_in(for_all, kubectl), writes_in(for_one, kubectl)) == (before, 1)
    assert writes_in(for_one, other) == 0
    assert f'pipeline_namespace="{kubectl.namespace}"' not in for_all.metrics(), "nor does it count its pods"
    for_one.kill() if is_killed else for_one.stop()
    set_count(kubectl, 3)
    kubectl.settled()
    assert writes_in(for_all, kubectl) == before + 1


def test_one_for_all_that_comes_later_never_writes_where_another_acts(
    kubectl: Kubectl, other: Kubectl, start_operator: StartOperator, digits: dict[str, Any]
) -> None:
    for_one = start_operator(kubectl.namespace)
    eventually(lambda: ACTS in for_one.log.read_text(), "an operator that acts")
    serve(kubectl, digits)
    for_all = start_operator()
    serve(other, digits)
    set_count(kubectl, 4)
    kubectl.settled()
    assert (writes_in(for_all, kubectl), writes_in(for_one, other)) == (0, 0)
