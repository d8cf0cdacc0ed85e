"""What pods need of a cluster that an older Kubernetes does not have, and what to say where it is missing. Pure."""

import re
from collections.abc import Collection, Iterator

from omni_operator.crd.objects import Object, Reference
from omni_operator.planning.manifests.devices import CLAIM_TEMPLATE
from omni_operator.planning.observed import Failure
from omni_operator.planning.topology.records import Topology

# How server-side apply names an unknown field, and how validation names a volume whose only field was dropped.
UNKNOWN_IMAGE_FIELD = re.compile(r'\.volumes\[name="([^"]+)"\]\.image: field not declared in schema')
EMPTY_VOLUME = re.compile(r"\.volumes\[(\d+)\]: Required value: must specify a volume type")
IMAGE_VOLUMES = "Kubernetes 1.35 or newer has them, or 1.33 with the feature gate ImageVolume"


def missing_image_volumes(child: Object, error: str) -> Failure | None:
    """The failure if the API server rejects pods because it has no image volumes."""
    if child["kind"] not in ("Deployment", "DaemonSet"):
        return None
    volumes = child["spec"]["template"]["spec"].get("volumes") or []
    rejected = [volume for volume in rejected_volumes(volumes, error) if volume.get("image")]
    if not rejected:
        return None
    name, references = child["metadata"]["name"], ", ".join(str(volume["image"]["reference"]) for volume in rejected)
    return Failure(
        "ImageVolumesMissing",
        f"{child['kind']} {name} cannot be made: this cluster cannot mount the image {references} as a volume;"
        f" {IMAGE_VOLUMES}. Or use a model of the hub (hf://) or of a volume (pvc://)",
    )


def missing_device_claims(topology: Topology, kinds: Collection[str]) -> dict[Reference, Failure]:
    """A failure for each Deployment whose pods claim devices, if the cluster has no such claims.

    Such a server would drop the claims, and the pods would run without devices. `kinds`: those that the server has.
    """
    if CLAIM_TEMPLATE in kinds:
        return {}
    return {
        ("Deployment", process.name): Failure(
            "DeviceClaimsMissing",
            f"Deployment {process.name} cannot be made: this cluster has no claims of devices (resource.k8s.io/v1);"
            " Kubernetes 1.34 or newer has them. Or name an extended resource in accelerator.resource",
        )
        for process in topology.processes
        if process.claims_devices
    }


def rejected_volumes(volumes: list[Object], error: str) -> Iterator[Object]:
    names = set(UNKNOWN_IMAGE_FIELD.findall(error))
    indices = {int(index) for index in EMPTY_VOLUME.findall(error)}
    return (volume for index, volume in enumerate(volumes) if volume["name"] in names or index in indices)
