"""A pipeline whose models are downloaded first, on a real API server: what waits, and what goes on without waiting."""

import json
from typing import Any

import pytest

from tests.kubernetes.apiserver.operators import Kubectl, Operator, eventually

pytestmark = pytest.mark.apiserver


def test_no_deployment_is_made_before_the_job_is_complete_and_the_job_goes_when_it_is_not_wanted(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    digits["spec"]["model"] = {"source": "hf://org/name", "cache": {"size": "1Gi", "prefetch": True}}
    digits["spec"]["image"] = {"name": "localhost/there/is:none"}
    kubectl.apply(digits)
    eventually(lambda: kubectl.condition("HeadReady").get("reason") == "Prefetching", "a status that says so")
    assert "the models are being downloaded before" in kubectl.condition("Ready")["message"]
    (job,) = kubectl.items("jobs")
    assert "Deployment/digits-head" not in kubectl.children()
    assert "PersistentVolumeClaim" in [item["kind"] for item in kubectl.items("persistentvolumeclaims")]
    kubectl.settled()
    assert not kubectl.items("deployments")
    # There is no node: the test says how the Job's pod ends, and the Job's controller does the rest.
    (pod,) = kubectl.items("pods", f"job-name={job['metadata']['name']}")
    done = json.dumps({"status": {"phase": "Succeeded"}})
    kubectl("patch", "pod", pod["metadata"]["name"], "--subresource=status", "--type=merge", "-p", done)
    eventually(lambda: len(kubectl.items("deployments")) == 2, "the head and the painters")
    eventually(lambda: kubectl.condition("HeadReady").get("reason") == "Unschedulable", "a status that saw the head")
    kubectl("patch", "op", "digits", "--type=merge", "-p", '{"spec": {"model": {"cache": {"prefetch": false}}}}')
    eventually(lambda: not kubectl.items("jobs"), "the end of the Job")
    assert len(kubectl.items("deployments")) == 2


def test_a_job_and_a_claim_that_are_deleted_come_back(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    digits["spec"]["model"] = {"source": "hf://org/name", "cache": {"size": "1Gi", "prefetch": True}}
    kubectl.apply(digits)
    kinds = "jobs,persistentvolumeclaims"

    def uids() -> dict[str, str]:
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in kubectl.items(kinds)}

    before = eventually(lambda: found if len(found := uids()) == 2 else None, "the Job and the claim")
    kubectl.settled()
    kubectl("delete", "jobs,persistentvolumeclaims", "--all", "--wait=false")
    eventually(
        lambda: uids().keys() == before.keys() and not set(uids().values()) & set(before.values()), "both of them again"
    )
