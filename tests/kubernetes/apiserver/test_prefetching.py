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


def test_a_change_of_the_model_reaches_the_pods_after_it_is_downloaded_and_a_job_that_gave_up_starts_again(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    digits["spec"]["model"] = {"source": "hf://org/name", "cache": {"size": "1Gi"}}
    digits["spec"]["image"] = {"name": "localhost/there/is:none"}
    kubectl.apply(digits)
    eventually(lambda: len(kubectl.items("deployments")) == 2, "the head and the painters")
    digits["spec"]["model"] = {"source": "hf://org/other", "cache": {"size": "1Gi", "prefetch": True}}
    digits["spec"]["replicas"] = 3
    kubectl.apply(digits)
    eventually(lambda: kubectl.condition("Progressing").get("reason") == "Prefetching", "a status that says so")

    def model_and_count() -> tuple[str, int]:
        spec = kubectl.get("deployment", "digits-painter")["spec"]
        return spec["template"]["spec"]["containers"][0]["args"][1], spec["replicas"]

    eventually(lambda: model_and_count() == ("hf://org/name", 3), "as many pods as are asked for, with the old model")
    kubectl.settled()
    assert model_and_count() == ("hf://org/name", 3)
    (job,) = kubectl.items("jobs")
    now = job["metadata"]["creationTimestamp"]
    common = {"status": "True", "reason": "BackoffLimitExceeded", "lastProbeTime": now, "lastTransitionTime": now}
    failed = [{"type": kind, "message": "m", **common} for kind in ("FailureTarget", "Failed")]
    status = {"conditions": failed, "startTime": now, "active": 0, "failed": 1, "terminating": 0}
    change = json.dumps({"status": status})
    kubectl("patch", "job", job["metadata"]["name"], "--subresource=status", "--type=merge", "-p", change)

    def other_job() -> dict[str, Any] | None:
        jobs = kubectl.items("jobs")
        return next((one for one in jobs if one["metadata"]["uid"] != job["metadata"]["uid"]), None)

    second = eventually(other_job, "another Job")
    assert second["metadata"]["name"] == job["metadata"]["name"]
    assert model_and_count()[0] == "hf://org/name"
    pods = eventually(
        lambda: kubectl.items("pods", f"batch.kubernetes.io/controller-uid={second['metadata']['uid']}"), "its pod"
    )
    done = json.dumps({"status": {"phase": "Succeeded"}})
    kubectl("patch", "pod", pods[0]["metadata"]["name"], "--subresource=status", "--type=merge", "-p", done)
    eventually(lambda: model_and_count() == ("hf://org/other", 3), "the new model")


def test_a_claim_is_bound_by_a_pod_with_the_devices_before_models_are_downloaded_into_it(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    cache = {"size": "1Gi", "prefetch": True, "accessMode": "ReadWriteOnce"}
    digits["spec"]["model"] = {"source": "hf://org/name", "cache": cache}
    kubectl.apply(digits)

    def jobs() -> list[str]:
        return sorted(job["metadata"]["name"].rpartition("-")[0] for job in kubectl.items("jobs"))

    eventually(lambda: kubectl.condition("Ready").get("reason") == "Unschedulable", "a status that saw the Job's pod")
    assert "fits on no node" in kubectl.condition("Ready")["message"]
    kubectl.settled()
    assert jobs() == ["digits-bind"]
    (pod,) = kubectl.items("pods", "omnipipeline.dev/pipeline=digits")
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    volume = {"name": f"{kubectl.namespace}-models"}
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/nowhere"},
        "claimRef": {"namespace": kubectl.namespace, "name": "digits-models"},
    }
    kubectl.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": volume, "spec": spec})
    try:
        eventually(lambda: jobs() == ["digits-fetch"], "the download in its place")
        kubectl.settled()
        assert not kubectl.items("deployments")
    finally:
        kubectl("delete", "pv", volume["name"], "--wait=false")
