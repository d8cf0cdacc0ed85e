"""The cluster's certificate authority, the certificate of each of its parts, and the kubeconfig files that use them.

Elliptic curve keys, because making six of them must not take seconds. Each is good for a year; the cluster is not.
"""

from __future__ import annotations

import base64
import json

from hack.cluster.instance import NODE, Instance
from hack.cluster.shell import run

SUBJECTS = {
    "apiserver": "/CN=kube-apiserver",
    "admin": "/O=system:masters/CN=admin",
    "controllers": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
    "proxy": "/CN=system:kube-proxy",
}


def issue(instance: Instance) -> None:
    """Write every key, certificate and kubeconfig the cluster needs into its state directory."""
    pki = instance.state / "pki"
    pki.mkdir()
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "365"]
    run("openssl", "req", "-x509", *new, "-subj", "/CN=omni-ca", "-keyout", "ca.key", "-out", "ca.crt", cwd=pki)
    run("openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", "sa.key", cwd=pki)
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    addresses = ["127.0.0.1", "10.96.0.1", instance.node_address]
    alternatives = ",".join([f"IP:{a}" for a in addresses] + [f"DNS:{n}" for n in names])
    for name, subject in SUBJECTS.items():
        run(
            "openssl", "req", "-x509", *new, "-CA", "ca.crt", "-CAkey", "ca.key", "-subj", subject,
            "-addext", f"subjectAltName={alternatives}", "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", f"{name}.key", "-out", f"{name}.crt", cwd=pki,
        )  # fmt: skip
        if name != "apiserver":
            _write_kubeconfig(instance, name)


def _write_kubeconfig(instance: Instance, user: str) -> None:
    pki = instance.state / "pki"

    def data(file: str) -> str:
        return base64.b64encode((pki / file).read_bytes()).decode()

    server = {"server": f"https://{instance.node_address}:6443", "certificate-authority-data": data("ca.crt")}
    identity = {"client-certificate-data": data(f"{user}.crt"), "client-key-data": data(f"{user}.key")}
    target = instance.state / f"{user}.kubeconfig"
    target.touch(mode=0o600)
    target.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": instance.name,
                "clusters": [{"name": instance.name, "cluster": server}],
                "users": [{"name": user, "user": identity}],
                "contexts": [{"name": instance.name, "context": {"cluster": instance.name, "user": user}}],
            },
            indent=2,
        )
    )
