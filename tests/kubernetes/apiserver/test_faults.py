"""The operator behind a bad way to the API server: refused calls, broken connections, lost answers, cut watches.

Whatever happens on the way, in the end there is what an undisturbed run gives, and then nothing is written any more.
"""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.apiserver.faults import Faults, FaultyServer
from tests.kubernetes.apiserver.many import Many, wait_until_settled
from tests.kubernetes.apiserver.operators import Kubectl, StartOperator, eventually, serve

pytestmark = pytest.mark.apiserver
QUIET_SECONDS = 10
LONGEST_DELAY_SECONDS = 20  # more than MAX_DELAY_SECONDS of the watches


def edited(many: Many) -> None:
    """All that is done to the pipelines, one edit soon after the other."""
    for edit in (many.create, many.scale, many.roll, many.rename):
        edit()
        time.sleep(2)


ROWS = {
    "calls are refused, connections break": Faults(watches=("reset", 500, 429)),
    "and watches are cut, or told that they are too old": Faults(seed=1, watches=(410, "cut", "gone", "cut", "gone")),
}


@pytest.mark.parametrize("row", ROWS)
def test_faults_change_nothing_of_what_it_comes_to(
    kubectl: Kubectl,
    other: Kubectl,
    way: FaultyServer,
    start_operator: StartOperator,
    digits: dict[str, Any],
    tmp_path: Path,
    row: str,
) -> None:
    way.faults = ROWS[row]
    disturbed, undisturbed = Many(kubectl, digits), Many(other, digits)
    operator = start_operator(kubectl.namespace, kubeconfig=way.kubeconfig(tmp_path / "faulty.kubeconfig"))
    start_operator(other.namespace)
    edited(disturbed)
    edited(undisturbed)
    wait_until_settled(undisturbed)
    wait_until_settled(disturbed)
    assert len(way.done) > 100, "so many calls went wrong"
    way.faults = None
    wait_until_settled(disturbed)
    assert disturbed.children() == undisturbed.children()
    assert disturbed.pods() == undisturbed.pods()
    assert disturbed.foreign_objects() == disturbed.foreign
    assert operator.is_running
    # What was put off after a refusal, such as a watch, is made up for first; then it rests.
    time.sleep(LONGEST_DELAY_SECONDS)
    eventually(lambda: not way.writes_since(time.monotonic() - LONGEST_DELAY_SECONDS), "the end of all writes")


def test_what_happens_while_nothing_gets_through_is_made_good_afterwards(
    kubectl: Kubectl, way: FaultyServer, start_operator: StartOperator, digits: dict[str, Any], tmp_path: Path
) -> None:
    operator = start_operator(kubectl.namespace, kubeconfig=way.kubeconfig(tmp_path / "faulty.kubeconfig"))
    serve(kubectl, digits)
    before = {name: child["metadata"]["uid"] for name, child in kubectl.children().items()}
    way.faults = Faults(part=1.0, reads=("reset",), writes=("reset",), watches=("reset",))
    way.break_all()
    gone = ("Service/digits", "Deployment/digits-painter", "ConfigMap/digits")
    for child in gone:
        kubectl("delete", child.lower())
    kubectl("scale", "op/digits", "--replicas=1")
    time.sleep(QUIET_SECONDS)
    assert not set(gone) & set(kubectl.children()), "nothing gets through"
    way.faults = None
    eventually(lambda: set(gone) <= set(kubectl.children()), "the children again")
    eventually(lambda: kubectl.get("deployment", "digits-painter")["spec"]["replicas"] == 1, "the count")
    after = {name: child["metadata"]["uid"] for name, child in kubectl.children().items()}
    assert {name for name in before if after[name] != before[name]} == set(gone)
    assert operator.is_running


@pytest.mark.parametrize("trouble", ["reset", "cut", "gone"])
def test_children_deleted_while_watches_are_cut_are_made_again(
    kubectl: Kubectl,
    way: FaultyServer,
    start_operator: StartOperator,
    digits: dict[str, Any],
    tmp_path: Path,
    trouble: str,
) -> None:
    start_operator(kubectl.namespace, kubeconfig=way.kubeconfig(tmp_path / "faulty.kubeconfig"))
    serve(kubectl, digits)
    before = {name: child["metadata"]["uid"] for name, child in kubectl.children().items()}
    way.faults = Faults(part=1.0, reads=(), writes=(), watches=(trouble,))
    way.break_all()
    gone = {"Service/digits", "Deployment/digits-painter", "NetworkPolicy/digits"}
    for child in sorted(gone):
        kubectl("delete", child.lower())
    eventually(lambda: len(way.done) >= 8, "a watch of every kind that was cut")
    way.faults = None

    def are_back() -> bool:
        after = {name: child["metadata"]["uid"] for name, child in kubectl.children().items()}
        return after.keys() == before.keys() and {name for name in before if after[name] != before[name]} == gone

    eventually(are_back, "the children that were deleted, and no others anew")
    kubectl.settled()
    assert are_back(), "and it stays so"
