"""Kinds of other projects, as far as anybody here looks at them: without a schema."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.kubernetes.apiserver.operators import Kubectl, eventually

SCHEMA = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


@contextmanager
def served(kubectl: Kubectl, group: str, kind: str) -> Iterator[None]:
    """Within the block the cluster has the kind, in version v1."""
    plural = f"{kind.lower()}s"
    name = f"{plural}.{group}"
    is_there = kubectl.exists("crd", name)
    if not is_there:
        kubectl.apply(definition(name, group, kind, plural))
        kubectl("wait", "--for=condition=Established", f"crd/{name}")
        eventually(lambda: kubectl.tried("get", name).returncode == 0, "a kind that is served")
    yield
    if not is_there:
        kubectl("delete", "crd", name)


def definition(name: str, group: str, kind: str, plural: str) -> dict[str, Any]:
    approval = "https://github.com/kubernetes-sigs/gateway-api"  # the server asks for one in groups of Kubernetes
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name, "annotations": {"api-approved.kubernetes.io": approval}},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural},
            "scope": "Namespaced",
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": SCHEMA}}],
        },
    }
