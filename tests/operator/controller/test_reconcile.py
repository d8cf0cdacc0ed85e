"""What of the children is made in a cluster that lacks some kinds, or has them in an older version."""

from omni_operator.controller.reconcile import fitted
from omni_operator.kube.resources import CHILDREN, DISRUPTION_BUDGETS

BUDGET = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "a"}}
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}
NEW, OLD = DISRUPTION_BUDGETS


def test_a_kind_that_the_cluster_has_in_an_older_version_is_made_in_that() -> None:
    assert fitted([BUDGET], {**CHILDREN, OLD.kind: OLD}) == ([{**BUDGET, "apiVersion": "policy/v1beta1"}], ())


def test_a_kind_in_its_newest_version_is_made_as_it_is() -> None:
    assert fitted([BUDGET, SERVICE], {**CHILDREN, NEW.kind: NEW}) == ([BUDGET, SERVICE], ())


def test_a_kind_that_the_cluster_does_not_have_is_left_out_and_named_once() -> None:
    assert fitted([BUDGET, SERVICE, BUDGET], CHILDREN) == ([SERVICE], ("PodDisruptionBudget",))
