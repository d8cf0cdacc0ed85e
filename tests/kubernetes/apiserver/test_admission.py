"""What a current API server checks before it takes an object: Pod Security, and fields that nobody knows."""

import copy
import json
from typing import Any

import pytest

from tests.charts.test_chart import documents
from tests.kubernetes.apiserver.operators import LABEL, Kubectl, Operator, eventually

pytestmark = pytest.mark.apiserver
LEVEL = "pod-security.kubernetes.io"


@pytest.mark.since(25, "Pod Security admission")
def test_a_namespace_for_restricted_pods_only_takes_all_pods_of_a_pipeline_without_a_warning(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any], two: dict[str, Any]
) -> None:
    """The operator logs a warning about any other, and the fixture that starts it fails on that."""
    kubectl("label", "namespace", kubectl.namespace, f"{LEVEL}/enforce=restricted", f"{LEVEL}/warn=restricted")
    refused = kubectl.tried("run", "other", "--image=other").stderr
    assert 'violates PodSecurity "restricted:latest"' in refused
    prefetched = copy.deepcopy(digits)
    prefetched["metadata"]["name"] = "prefetched"
    prefetched["spec"]["model"] = {"source": "hf://org/name", "cache": {"size": "1Gi", "prefetch": True}}
    kubectl.apply(digits, two, prefetched)
    # A head and two painters; a head, a thinker and a painter; the Job's.
    eventually(lambda: len(kubectl.items("pods", LABEL)) == 3 + 3 + 1, "the pods of all three")
    assert not [each for each in kubectl.items("events") if each["reason"] == "FailedCreate"]


@pytest.mark.since(25, "strict validation of fields")
@pytest.mark.parametrize("where", ["spec", "spec.stages[0]", "spec.stages[0].scheduling"])
def test_a_field_that_is_not_there_is_refused_by_name(kubectl: Kubectl, digits: dict[str, Any], where: str) -> None:
    part = digits["spec"]
    if where != "spec":
        part = part["stages"][0]
    if where.endswith("scheduling"):
        part = part.setdefault("scheduling", {})
    part["replcias"] = 3
    with pytest.raises(AssertionError, match="strict decoding error: unknown field"):
        kubectl.apply(digits)
    assert f'unknown field "{where}.replcias"' in kubectl.tried("apply", "-f", "-", stdin=json.dumps(digits)).stderr
    assert not kubectl.items("omnipipelines")


@pytest.mark.since(25, "Pod Security admission")
def test_a_namespace_for_restricted_pods_only_takes_all_pods_of_the_chart_without_a_warning(kubectl: Kubectl) -> None:
    kubectl("label", "namespace", kubectl.namespace, f"{LEVEL}/enforce=restricted", f"{LEVEL}/warn=restricted")
    with_pods = [each for each in documents() if each["kind"] in ("Deployment", "Job", "Pod")]
    assert sorted(each["kind"] for each in with_pods) == ["Deployment", "Job", "Pod"]
    for each in with_pods:
        each["metadata"]["namespace"] = kubectl.namespace
        if each["kind"] == "Pod":
            each["spec"]["serviceAccountName"] = "default"  # its own is made only for the time of `helm test`
        kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(each))
