"""The rules in the definition, as a real API server applies them: what they reject, at which field, and when not."""

from typing import Any

import pytest

from omni_operator.crd.schema import RULES_SINCE
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError
from omni_operator.kube.resources import PIPELINES
from tests.kubernetes.apiserver.operators import Kubectl
from tests.operator.crd.rules.cel import violations
from tests.operator.crd.rules.test_cel import CHANGES, REFUSED, uncovered
from tests.operator.crd.test_parsing import ACCEPTED
from tests.operator.edits import edited

pytestmark = [pytest.mark.apiserver, pytest.mark.since(RULES_SINCE, "rules that spare what did not change")]


def causes(kubectl: Kubectl, manifest: dict[str, Any], is_dry_run: bool = True) -> dict[str, str]:
    """What the server says against a manifest, by the path of the field."""
    metadata = {"name": manifest["metadata"]["name"], "namespace": kubectl.namespace}
    try:
        Cluster(kubeconfig=kubectl.kubeconfig).apply(
            PIPELINES, {**manifest, "metadata": metadata}, force=True, is_dry_run=is_dry_run
        )
    except ApiError as error:
        return {field: message for field, _, message in error.causes} or {"": str(error)}
    return {}


def test_the_server_rejects_each_problem_at_the_field_of_the_operator(kubectl: Kubectl, digits: dict[str, Any]) -> None:
    wrong = {}
    for row, edits in REFUSED.items():
        manifest = edited(digits, edits)
        expected, found = violations(manifest), causes(kubectl, manifest)
        others = uncovered(expected, found) + uncovered(found, expected)
        if others or any(message not in found.get(path, "") for path, message in expected.items()):
            wrong[row] = (expected, found)
    assert wrong == {}


def test_the_server_accepts_what_the_operator_accepts(kubectl: Kubectl, digits: dict[str, Any]) -> None:
    accepted = {row: edits for row, edits in ACCEPTED.items() if not row.startswith("null")}
    assert {row: found for row in accepted if (found := causes(kubectl, edited(digits, accepted[row])))} == {}


def test_the_server_rejects_all_problems_at_once(kubectl: Kubectl, digits: dict[str, Any]) -> None:
    edits = {
        "metadata.name": "7s",
        "spec.model": {"source": "hf://a/b", "cache": {"claimName": "mine", "size": "64Mi"}},
        "spec.head.stage": "thinker",
        "spec.stages.0.shmSize": "64m",
        "spec.stages.0.task": "encode",
    }
    assert set(causes(kubectl, edited(digits, edits))) == {
        "metadata.name",
        "spec.model.cache",
        "spec.head.stage",
        "spec.stages[0].shmSize",
        "spec.stages[0].task",
    }


def test_a_claim_changes_only_as_claims_can(kubectl: Kubectl, digits: dict[str, Any]) -> None:
    found = {}
    for index, (before, after, _) in enumerate(CHANGES.values()):
        manifest = edited(digits, {"metadata.name": f"change-{index}", "spec.paused": True})
        for cache in (before, after):
            manifest["spec"]["model"] = {"source": "hf://a/b", "cache": cache}
            refusal = causes(kubectl, manifest, is_dry_run=False)
        found[list(CHANGES)[index]] = list(refusal)
    assert found == {row: [f"spec.model.cache{field}"] if field else [] for row, (_, _, field) in CHANGES.items()}
