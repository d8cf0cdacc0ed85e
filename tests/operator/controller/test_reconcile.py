"""Which children a pass creates in a cluster that lacks some kinds, or has them in an older version."""

from omni_operator.controller.reconcile import supported_children
from omni_operator.kube.resources import CHILDREN, DISRUPTION_BUDGETS

BUDGET = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "a"}}
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}
NEW, OLD = DISRUPTION_BUDGETS


def test_a_kind_in_an_older_version_is_created_in_that_version() -> None:
    older = {**BUDGET, "apiVersion": "policy/v1beta1"}
    assert supported_children([BUDGET], {**CHILDREN, OLD.kind: OLD}) == ([older], ())


def test_a_kind_in_its_newest_version_is_created_unchanged() -> None:
    assert supported_children([BUDGET, SERVICE], {**CHILDREN, NEW.kind: NEW}) == ([BUDGET, SERVICE], ())


def test_a_kind_that_the_cluster_lacks_is_left_out_and_named_once() -> None:
    assert supported_children([BUDGET, SERVICE, BUDGET], CHILDREN) == ([SERVICE], ("PodDisruptionBudget",))
