"""etcd, the API server, the controllers and the scheduler of one instance, and a small client of that API server."""

from __future__ import annotations

import json
import ssl
import urllib.request
from typing import Any

from hack.cluster.instance import SERVICE_CIDR, Instance
from hack.cluster.sandbox import start
from hack.cluster.shell import wait_until

ETCD = "http://127.0.0.1:2379"
JSON_PATCH = "application/json-patch+json"


class Api:
    """The API server as its administrator sees it. Raises OSError when it cannot be reached or refuses."""

    def __init__(self, instance: Instance) -> None:
        pki = instance.state / "pki"
        self._url = f"https://{instance.node_address}:6443"
        self._context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._context.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    def text(self, path: str, method: str = "GET", body: Any = None, kind: str = "application/json") -> str:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, method=method, data=data, headers={"Content-Type": kind})
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context)
        )
        with opener.open(request, timeout=10) as response:
            return str(response.read().decode())

    def items(self, path: str) -> list[dict[str, Any]]:
        return list(json.loads(self.text(path))["items"])

    def is_ready(self) -> bool:
        return self.text("/readyz") == "ok"


def start_control_plane(instance: Instance) -> None:
    """Start it and wait until the API server is ready."""
    pki, programs = instance.state / "pki", instance.programs
    start(
        instance, "etcd", programs.find("etcd"), "--data-dir", instance.state / "etcd", "--unsafe-no-fsync",
        "--log-level=error",
        f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}", "--listen-peer-urls=http://127.0.0.1:2380",
    )  # fmt: skip
    start(
        instance, "apiserver", programs.find("kube-apiserver"), f"--etcd-servers={ETCD}", "--secure-port=6443",
        f"--advertise-address={instance.node_address}",
        f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--service-account-key-file={pki}/sa.key", f"--service-account-signing-key-file={pki}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=Node,RBAC",
        f"--service-cluster-ip-range={SERVICE_CIDR}", "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={pki}/admin.crt", f"--kubelet-client-key={pki}/admin.key",
        "--allow-privileged=true",
    )  # fmt: skip
    api = Api(instance)
    wait_until("the API server", 120, api.is_ready, f"see {instance.state}/apiserver.log")
    start(
        instance, "controllers", programs.find("kube-controller-manager"),
        f"--kubeconfig={instance.state}/controllers.kubeconfig",
        f"--service-account-private-key-file={pki}/sa.key", f"--root-ca-file={pki}/ca.crt",
        "--use-service-account-credentials=true", "--leader-elect=false",
        # Their default of 20 requests a second makes a start of seconds one of half a minute.
        "--kube-api-qps=1000", "--kube-api-burst=1000",
    )  # fmt: skip
    start(
        instance, "scheduler", programs.find("kube-scheduler"), f"--kubeconfig={instance.state}/scheduler.kubeconfig",
        "--leader-elect=false",
    )  # fmt: skip
    # Pods can be made only once the controllers have made the first service account; before 1.24 also its token.
    needs_token = programs.minor < 24
    wait_until(
        "the controllers",
        60,
        lambda: any(
            account["metadata"]["name"] == "default" and (account.get("secrets") or not needs_token)
            for account in api.items("/api/v1/namespaces/default/serviceaccounts")
        ),
        f"see {instance.state}/controllers.log",
    )
