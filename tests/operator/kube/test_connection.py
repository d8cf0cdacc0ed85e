"""What the operator does with an answer of the API server, here a server of the test's own."""

import logging
from collections.abc import Iterator

import pytest
from kubernetes.client import Configuration

from omni_operator.kube.connection import Connection
from tests.loopback import Loopback, QuietHandler

DEPRECATED = "policy/v1beta1 PodDisruptionBudget is deprecated in v1.21+, unavailable in v1.25+"


class Warning(QuietHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        if self.path == "/deprecated":
            self.send_header("Warning", f'299 - "{DEPRECATED}"')
            self.send_header("Warning", r'299 - "unknown field \"spec.imagePullSecret\", a \\ b"')
        self.end_headers()
        self.wfile.write(b"{}")


@pytest.fixture
def connection() -> Iterator[Connection]:
    server = Loopback(Warning)
    configuration = Configuration()
    configuration.host = server.url
    yield Connection(configuration, connections=1)
    server.close()


def test_a_warning_of_the_server_is_logged_once(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/deprecated", "/deprecated", "/other"):
        assert connection.send_json("GET", path) == {}
    assert [(each.levelno, each.getMessage()) for each in caplog.records if "warns" in each.getMessage()] == [
        (logging.WARNING, f"the API server warns of GET /deprecated: {DEPRECATED}"),
        (logging.WARNING, 'the API server warns of GET /deprecated: unknown field "spec.imagePullSecret", a \\ b'),
    ]
