"""What `helm test` runs: it succeeds with a picture, says what it waits for, and leaves nothing behind."""

from collections.abc import Mapping
from typing import Any

import pytest

from omni_operator.commands import helm_test
from omni_operator.crd.objects import Object
from omni_operator.crd.parsing import parse
from omni_operator.kube.resources import Resource

PICTURE = b"\x89PNG and so on"


class OnePipeline:
    """A cluster that has room for one pipeline, which becomes what `statuses` says, look by look."""

    def __init__(self, *statuses: tuple[str, str]) -> None:
        self.statuses, self.pipeline, self.looks = list(statuses), None, 0

    pipeline: Object | None

    def apply(self, resource: Resource, child: Mapping[str, Any], force: bool) -> Object:
        parse(child)
        self.pipeline = dict(child)
        return self.pipeline

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        assert self.pipeline is not None
        if not self.statuses:
            return self.pipeline
        status, message = self.statuses[min(self.looks, len(self.statuses) - 1)]
        self.looks += 1
        return {**self.pipeline, "status": {"conditions": [{"type": "Ready", "status": status, "message": message}]}}

    def delete(self, resource: Resource, child: Mapping[str, Any]) -> None:
        self.pipeline = None


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helm_test, "POLL_SECONDS", 0.0)


def run(cluster: OnePipeline, picture: bytes = PICTURE, seconds: float = 0.05) -> list[str]:
    said: list[str] = []
    asked: list[str] = []

    def draw(url: str) -> bytes:
        asked.append(url)
        return picture

    helm_test.HelmTest(cluster, "team-a", "helm-test", seconds, draw, said.append).run()
    assert asked == ["http://helm-test.team-a.svc:8000"]
    return said


def test_a_picture_is_a_success_and_each_wait_is_told_once() -> None:
    cluster = OnePipeline(("False", "painter 0/1 ready"), ("False", "painter 0/1 ready"), ("True", "painter 1/1 ready"))
    assert run(cluster, seconds=5) == [
        "made pipeline helm-test in namespace team-a",
        "painter 0/1 ready",
        "helm-test drew a picture of 14 bytes",
    ]
    assert cluster.pipeline is None


FAILURES: dict[str, tuple[OnePipeline, bytes, str]] = {
    "it never serves": (OnePipeline(("False", "fits on no node")), PICTURE, "does not serve: fits on no node"),
    "no operator looks at it": (OnePipeline(), PICTURE, "the operator has not looked at it; is it running?"),
    "it answers with something else": (OnePipeline(("True", "")), b"<html>", "not a PNG: b'<html>'"),
}


@pytest.mark.parametrize("row", FAILURES)
def test_a_failure_says_why_and_leaves_nothing_behind(row: str) -> None:
    cluster, picture, expected = FAILURES[row]
    with pytest.raises(helm_test.HelmTestFailed) as caught:
        run(cluster, picture)
    assert expected in str(caught.value)
    assert cluster.pipeline is None
