"""What `helm test` runs: it needs an image, reports what it waits for, and leaves nothing behind."""

import base64
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from omni_operator.commands import helm_test
from omni_operator.crd.objects import Object
from omni_operator.crd.parsing import parse
from omni_operator.kube.resources import Resource
from omni_operator.local.ports import FreePorts

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
        "created pipeline helm-test in namespace team-a",
        "painter 0/1 ready",
        "helm-test generated an image of 14 bytes",
    ]
    assert cluster.pipeline is None


FAILURES: dict[str, tuple[OnePipeline, bytes, str]] = {
    "the pipeline never serves": (OnePipeline(("False", "fits on no node")), IMAGE, "does not serve: fits on no node"),
    "no operator handles it": (OnePipeline(), IMAGE, "the operator has not seen it; is it running?"),
    "the response is no image": (OnePipeline(("True", "")), b"<html>", "not a PNG: b'<html>'"),
}


@pytest.mark.parametrize("row", FAILURES)
def test_a_failure_says_why_and_leaves_nothing_behind(row: str) -> None:
    cluster, image, expected = FAILURES[row]
    with pytest.raises(helm_test.HelmTestFailed) as caught:
        run(cluster, image)
    assert expected in str(caught.value)
    assert cluster.pipeline is None


class OneImage(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.dumps({"data": [{"b64_json": base64.b64encode(IMAGE).decode()}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_it_connects_again_until_the_service_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    port = FreePorts()(1)
    servers: list[HTTPServer] = []

    def start_serving(seconds: float) -> None:
        """Takes the place of the pause after a refused connection."""
        servers.append(HTTPServer(("127.0.0.1", port), OneImage))
        threading.Thread(target=servers[0].serve_forever, daemon=True).start()

    monkeypatch.setattr(helm_test.time, "sleep", start_serving)
    try:
        assert helm_test.generate_image(f"http://127.0.0.1:{port}") == IMAGE
        assert len(servers) == 1
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def test_an_address_that_never_answers_fails_after_a_while_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helm_test, "CONNECT_SECONDS", 0.0)
    with pytest.raises(helm_test.HelmTestFailed, match="cannot be reached from a pod"):
        helm_test.generate_image(f"http://127.0.0.1:{FreePorts()(1)}")
