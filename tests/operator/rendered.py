"""The Kubernetes objects that a manifest becomes."""

from typing import Any

from omni_operator.crd.objects import Object, Reference
from omni_operator.crd.parsing import parse
from omni_operator.planning.manifests import children
from omni_operator.planning.manifests.pod import Surroundings
from omni_operator.planning.topology.cluster import cluster_topology

IMAGE = "ghcr.io/omnipipeline/worker:test"
KEYS = "keys-of-the-pods-of-these-tests"
SURROUNDINGS = Surroundings(IMAGE)


def rendered(
    manifest: dict[str, Any], keys: str = KEYS, surroundings: Surroundings = SURROUNDINGS
) -> dict[Reference, Object]:
    """Every object of a pipeline except its Secret."""
    pipeline = parse(manifest)
    return {
        (child["kind"], child["metadata"]["name"]): child
        for child in children(pipeline, cluster_topology(pipeline), surroundings, keys)
    }


def pod(manifest: dict[str, Any], name: str = "digits-painter", keys: str = KEYS) -> dict[str, Any]:
    """The pod template of a Deployment."""
    template: dict[str, Any] = rendered(manifest, keys)["Deployment", name]["spec"]["template"]
    return template


def container(manifest: dict[str, Any], name: str = "digits-painter") -> dict[str, Any]:
    """The worker's container in the pod template of a Deployment."""
    omni: dict[str, Any] = pod(manifest, name)["spec"]["containers"][0]
    return omni
