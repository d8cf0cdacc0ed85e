"""Twenty pipelines at a time, what is done to them, and what they should come to whatever happened on the way."""

import copy
import json
import re
from typing import Any

from tests.kubernetes.apiserver.operators import LABEL, Kubectl, eventually

COUNT = 20
NAMES = [f"digits-{number:02d}" for number in range(COUNT)]
FOREIGN = "digits-00"
"""The pipeline that finds a Service of someone else under its name."""
# Not what was wanted, but who wrote it when, and what the server made of it.
OF_THE_SERVER = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "namespace", "generation", "selfLink")


def someones_service(name: str = FOREIGN) -> dict[str, Any]:
    spec = {"ports": [{"port": 80}], "selector": {"app": "mine"}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def someones_config_map() -> dict[str, Any]:
    """An object that carries our labels, and is nobody's."""
    labels = dict(part.split("=") for part in (LABEL, f"omnipipeline.dev/pipeline={NAMES[1]}"))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine", "labels": labels}, "data": {"a": "b"}}


class Many:
    """Pipelines of one namespace that are made, scaled, and rolled to another image."""

    def __init__(self, kubectl: Kubectl, manifest: dict[str, Any]) -> None:
        self.kubectl = kubectl
        self.manifests = [copy.deepcopy(manifest) for _ in NAMES]
        for name, one in zip(NAMES, self.manifests, strict=True):
            one["metadata"]["name"] = name
        kubectl.apply(someones_service(), someones_config_map())
        self.foreign = self.foreign_objects()

    def foreign_objects(self) -> list[dict[str, Any]]:
        return [self.kubectl.get("service", FOREIGN), self.kubectl.get("configmap", "mine")]

    def create(self) -> None:
        self.kubectl.apply(*self.manifests)

    def scale(self) -> None:
        for number, one in enumerate(self.manifests):
            one["spec"]["replicas"] = number % 4
        self.create()

    def roll(self) -> None:
        for one in self.manifests:
            one["spec"]["image"] = {"name": "worker:2"}
        self.create()

    def rename(self) -> None:
        """Another name for the stage of every third one: a Deployment and a budget go, and others come."""
        for one in self.manifests[::3]:
            one["spec"]["stages"][0]["name"] = one["spec"]["head"]["stage"] = "brush"
        self.create()

    def children(self) -> dict[str, Any]:
        """What the children are, without what differs from one run to the next."""
        return {name: essence(child) for name, child in self.kubectl.children().items()}

    def pods(self) -> dict[str, int]:
        """Pods by what they belong to."""
        found: dict[str, int] = {}
        for pod in self.kubectl.items("pods", LABEL):
            if not pod["metadata"].get("deletionTimestamp"):
                owner = pod["metadata"]["generateName"].rsplit("-", 2)[0]
                found[owner] = found.get(owner, 0) + 1
        return found

    def asked(self) -> dict[str, int]:
        """The pods that there should be."""
        deployments = [one for one in self.kubectl.items("deployments", LABEL) if one["spec"]["replicas"]]
        return {one["metadata"]["name"]: one["spec"]["replicas"] for one in deployments}

    def are_seen(self) -> bool:
        """Whether every pipeline has a status of its present spec, and none that tells of a passing trouble."""
        pipelines = self.kubectl.items("omnipipelines")
        return len(pipelines) == COUNT and all(is_seen(one) for one in pipelines)


def is_seen(pipeline: dict[str, Any]) -> bool:
    status = pipeline.get("status") or {}
    if status.get("observedGeneration") != pipeline["metadata"]["generation"]:
        return False
    reason = {one["type"]: one["reason"] for one in status["conditions"]}["Ready"]
    allowed = ("NameConflict",) if pipeline["metadata"]["name"] == FOREIGN else ("Unschedulable", "ScaledToZero")
    return reason in allowed


def essence(child: dict[str, Any]) -> dict[str, Any]:
    """A child without what the server says of it, chance, hashes of that, and the name of its namespace."""
    text = json.dumps(child).replace(child["metadata"]["namespace"], "the-namespace")
    whole = json.loads(re.sub(r"-keys-[0-9a-f]{8}\b", "-keys", text))
    metadata = {key: value for key, value in whole["metadata"].items() if key not in OF_THE_SERVER}
    metadata["ownerReferences"] = [{**one, "uid": ""} for one in metadata.get("ownerReferences", [])]
    metadata["annotations"] = without_hashes(metadata.get("annotations", {}))
    result = {key: value for key, value in whole.items() if key not in ("status", "metadata", "secrets")}
    if child["kind"] == "Secret":
        del result["data"]
    if child["kind"] == "Service":
        result["spec"] = {key: value for key, value in whole["spec"].items() if not key.startswith("clusterIP")}
    if child["kind"] == "Deployment":
        below = result["spec"]["template"]["metadata"]
        below["annotations"] = without_hashes(below["annotations"])
    return {**result, "metadata": metadata}


def without_hashes(annotations: dict[str, str]) -> dict[str, str]:
    """Annotations but those that follow from the rest, and the Deployment controller's."""
    return {
        key: value
        for key, value in annotations.items()
        if not key.startswith("deployment.kubernetes.io") and not key.endswith("-hash")
    }


def wait_until_settled(many: Many, seconds: float = 240) -> dict[str, str]:
    """The versions of all, once every pipeline is what its spec says and nothing changes any more."""
    eventually(many.are_seen, "a status of every spec", seconds)
    eventually(lambda: many.pods() == many.asked(), "the pods that are asked for", seconds)
    return many.kubectl.settled()
