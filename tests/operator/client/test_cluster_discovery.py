"""Which pipeline of a cluster the flags select, and how long the commands wait until it serves."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from omni_operator.client import cluster_discovery
from omni_operator.client.endpoint import EndpointNotFound, PipelineSelector
from omni_operator.kube.errors import ApiError


def pipeline(name: str, *conditions: tuple[str, str, str]) -> dict[str, Any]:
    """A pipeline with conditions: type, status, message."""
    fields = ("type", "status", "message")
    status = {"conditions": [dict(zip(fields, condition, strict=True)) for condition in conditions]}
    return {"metadata": {"name": name}, "spec": {}, "status": status}


SERVING = ("HeadReady", "True", "")


class OneNamespace:
    """A cluster with a single namespace. Its pipelines change from one read of them to the next."""

    def __init__(self, *reads: Sequence[dict[str, Any]]) -> None:
        self._reads = list(reads)
        self.error: Exception | None = None

    def list_objects(self, resource: object, namespace: str) -> Sequence[dict[str, Any]]:
        if self.error:
            raise self.error
        return self._reads[0]

    def get(self, resource: object, namespace: str, name: str) -> dict[str, Any] | None:
        pipelines = self._reads.pop(0) if len(self._reads) > 1 else self._reads[0]
        return next((one for one in pipelines if one["metadata"]["name"] == name), None)

    def service(self, namespace: str, name: str, port: str, scheme: str) -> SimpleNamespace:
        return SimpleNamespace(
            url=f"{scheme}://proxy/{namespace}/{name}:{port}", context=None, headers={"Via": "proxy"}, proxy=None
        )


def find(
    monkeypatch: pytest.MonkeyPatch, cluster: OneNamespace, timeout: float = 0.0, name: str | None = None
) -> tuple[str, list[str]]:
    """The address that is found, and the reported reasons to wait."""
    monkeypatch.setattr(cluster_discovery, "Cluster", lambda context: cluster)
    monkeypatch.setattr(cluster_discovery, "POLL_SECONDS", 0.0)
    reports: list[str] = []
    selector = PipelineSelector(pipeline=name, namespace="team-a")
    endpoint = cluster_discovery.find_endpoint(selector, timeout, reports.append)
    assert endpoint.headers == {"Via": "proxy"}
    return endpoint.url, reports


def test_the_only_pipeline_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = OneNamespace([pipeline("digits", SERVING)])
    assert find(monkeypatch, cluster) == ("http://proxy/team-a/digits:http", [])


def test_a_pipeline_that_starts_is_waited_for_and_each_reason_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    starting = pipeline("digits", ("HeadReady", "False", ""), ("Ready", "False", "painter 0/1 ready"))
    cluster = OneNamespace([pipeline("digits")], [starting], [starting], [pipeline("digits", SERVING)])
    url, reports = find(monkeypatch, cluster, timeout=60.0)
    assert url == "http://proxy/team-a/digits:http"
    assert reports == [
        "waiting for pipeline digits: the operator has not seen it yet",
        "waiting for pipeline digits: painter 0/1 ready",
    ]


NOT_FOUND: dict[str, tuple[list[dict[str, Any]], str | None, str]] = {
    "no pipeline": ([], None, "namespace team-a has no pipeline: give --url"),
    "several pipelines": (
        [pipeline("b"), pipeline("a")],
        None,
        r"has several pipelines \(a, b\); choose one",
    ),
    "another name": ([pipeline("a")], "b", "there is no pipeline b in namespace team-a; there are: a"),
    "a similar name": ([pipeline("digits")], "digit", r"no pipeline digit in namespace team-a; did you mean digits\?"),
    "rejected": ([pipeline("a", ("Accepted", "False", "no stages"))], None, "pipeline a is not accepted: no stages"),
    "not ready": ([pipeline("a", ("Ready", "False", "loading"))], None, "pipeline a does not serve: loading"),
}


@pytest.mark.parametrize("row", NOT_FOUND)
def test_a_pipeline_that_cannot_be_used_is_reported(monkeypatch: pytest.MonkeyPatch, row: str) -> None:
    pipelines, name, message = NOT_FOUND[row]
    with pytest.raises(EndpointNotFound, match=message):
        find(monkeypatch, OneNamespace(pipelines), name=name)


def test_a_cluster_without_the_definition_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = OneNamespace([])
    cluster.error = ApiError(404, "NotFound", "the server could not find the requested resource")
    with pytest.raises(EndpointNotFound, match="does not know pipelines: install the operator's chart"):
        find(monkeypatch, cluster)
