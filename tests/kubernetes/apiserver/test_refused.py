"""What a quota or an admission webhook refuses the operator: told in its words, made good once it does no more."""

import json
import socket
import ssl
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.kubernetes.apiserver.operators import CHILDREN, Kubectl, Operator, eventually

pytestmark = pytest.mark.apiserver
WORDS = "no ConfigMaps on Sundays"


class Denying(BaseHTTPRequestHandler):
    """An admission webhook that lets nothing pass."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {"uid": review["request"]["uid"], "allowed": False, "status": {"message": WORDS}}
        content = json.dumps({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def own_address(kubectl: Kubectl) -> str:
    """This machine as the API server sees it."""
    server = urlsplit(kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((server.hostname, server.port))
        return str(probe.getsockname()[0])


@pytest.fixture
def webhook(kubectl: Kubectl, tmp_path: Path) -> Iterator[dict[str, str]]:
    """How the API server reaches a webhook of this process."""
    address = own_address(kubectl)
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    made = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=webhook -keyout {key} -out {certificate}"
    subprocess.run([*made.split(), "-addext", f"subjectAltName=IP:{address}"], capture_output=True, check=True)
    server = ThreadingHTTPServer((address, 0), Denying)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"https://{address}:{server.server_address[1]}/"
    yield {"url": url, "caBundle": b64encode(certificate.read_bytes()).decode()}
    server.shutdown()
    server.server_close()


def is_told(kubectl: Kubectl, words: str) -> bool:
    return words in kubectl.condition("Ready").get("message", "")


def test_a_quota_of_objects_is_told_and_the_rest_is_made_once_it_is_lifted(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any]
) -> None:
    kubectl("create", "quota", "few", "--hard=services=1")
    eventually(lambda: kubectl.get("quota", "few").get("status", {}).get("hard"), "a quota that counts")
    kubectl.apply(digits)
    eventually(lambda: is_told(kubectl, "exceeded quota: few"), "a status with the server's words")
    assert kubectl.condition("Ready")["reason"] == "Forbidden"
    assert set(CHILDREN) - set(kubectl.children()) == {"Service/digits"}
    assert len(kubectl.items("pods")) == 3, "all else goes on"
    kubectl("delete", "quota", "few")
    eventually(lambda: sorted(kubectl.children()) == CHILDREN, "the Service")
    eventually(lambda: kubectl.condition("Ready")["reason"] == "Unschedulable", "a status without it")


def test_what_a_webhook_denies_is_told_in_its_words_and_made_once_it_does_not(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any], webhook: dict[str, str]
) -> None:
    name = kubectl.namespace
    kubectl("label", "namespace", name, f"of={name}")
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    hook = {"name": "denies.example.com", "clientConfig": webhook, "rules": [rule], "sideEffects": "None"}
    hook |= {"namespaceSelector": {"matchLabels": {"of": name}}, "admissionReviewVersions": ["v1"]}
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    kubectl.apply({**kind, "metadata": {"name": name}, "webhooks": [hook]})
    try:
        eventually(lambda: WORDS in kubectl.tried("create", "configmap", "probe").stderr, "a webhook that is asked")
        kubectl.apply(digits)
        eventually(lambda: is_told(kubectl, WORDS), "a status with the webhook's words")
        assert set(CHILDREN) - set(kubectl.children()) == {"ConfigMap/digits"}
    finally:
        kubectl("delete", "validatingwebhookconfiguration", name)
    eventually(lambda: sorted(kubectl.children()) == CHILDREN, "the ConfigMap")
    eventually(lambda: kubectl.condition("Ready")["reason"] == "Unschedulable", "a status without it")
