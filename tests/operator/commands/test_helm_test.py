"""What `helm test` runs: it needs an image, reports what it waits for, and leaves nothing behind."""

from collections.abc import Mapping
from typing import Any

import pytest

from omni_operator.commands import helm_test
from omni_operator.crd.objects import Object
from omni_operator.crd.parsing import parse
from omni_operator.kube.resources import Resource

IMAGE = b"\x89PNG and so on"


class OnePipeline:
    """A cluster with a single pipeline. Each `get` returns it with the next of the statuses, and then with the last."""

    def __init__(self, *statuses: tuple[str, str]) -> None:
        self.statuses, self.pipeline, self.reads = list(statuses), None, 0

    pipeline: Object | None

    def apply(self, resource: Resource, child: Mapping[str, Any], force: bool) -> Object:
        parse(child)
        self.pipeline = dict(child)
        return self.pipeline

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        assert self.pipeline is not None
        if not self.statuses:
            return self.pipeline
        status, message = self.statuses[min(self.reads, len(self.statuses) - 1)]
        self.reads += 1
        return {**self.pipeline, "status": {"conditions": [{"type": "Ready", "status": status, "message": message}]}}

    def delete(self, resource: Resource, child: Mapping[str, Any]) -> None:
        self.pipeline = None


@pytest.fixture(autouse=True)
def without_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helm_test, "POLL_SECONDS", 0.0)


def run(cluster: OnePipeline, image: bytes = IMAGE, seconds: float = 0.05) -> list[str]:
    reports: list[str] = []
    urls: list[str] = []

    def generate_image(url: str) -> bytes:
        urls.append(url)
        return image

    helm_test.HelmTest(cluster, "team-a", "helm-test", seconds, generate_image, reports.append).run()
    assert urls == ["http://helm-test.team-a.svc:8000"]
    return reports


def test_an_image_is_a_success_and_each_reason_to_wait_is_reported_once() -> None:
    cluster = OnePipeline(("False", "painter 0/1 ready"), ("False", "painter 0/1 ready"), ("True", "painter 1/1 ready"))
    assert run(cluster, seconds=5) == [
        "made pipeline helm-test in namespace team-a",
        "painter 0/1 ready",
        "helm-test drew a picture of 14 bytes",
    ]
    assert cluster.pipeline is None


FAILURES: dict[str, tuple[OnePipeline, bytes, str]] = {
    "the pipeline never serves": (OnePipeline(("False", "fits on no node")), IMAGE, "does not serve: fits on no node"),
    "no operator handles it": (OnePipeline(), IMAGE, "the operator has not looked at it; is it running?"),
    "the response is no image": (OnePipeline(("True", "")), b"<html>", "not a PNG: b'<html>'"),
}


@pytest.mark.parametrize("row", FAILURES)
def test_a_failure_says_why_and_leaves_nothing_behind(row: str) -> None:
    cluster, image, expected = FAILURES[row]
    with pytest.raises(helm_test.HelmTestFailed) as caught:
        run(cluster, image)
    assert expected in str(caught.value)
    assert cluster.pipeline is None
