"""The Services of a pipeline: one for clients, and one with which replicas find the head before it is ready."""

from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import child
from omni_operator.planning.manifests.pod import control_ports
from omni_operator.planning.topology.records import CLUSTER_HEAD, Topology


def api_service(pipeline: OmniPipeline) -> Object:
    port = service_port("http", CLUSTER_HEAD.api)
    if pipeline.speaks_tls:
        port["appProtocol"] = "https"  # for Ingresses and meshes; the port keeps its name, which other objects refer to
    return child(
        pipeline,
        "v1",
        "Service",
        pipeline.name,
        labels.common(pipeline.name),
        {
            "spec": {
                "type": pipeline.spec.service.type,
                "selector": labels.head_selector(pipeline.name),
                "ports": [port],
            }
        },
        annotations=pipeline.spec.service.annotations,
    )


def head_service(pipeline: OmniPipeline, topology: Topology) -> Object:
    """Publishes the head even while it is not ready, because it becomes ready only after replicas have found it."""
    return child(
        pipeline,
        "v1",
        "Service",
        topology.head.name,
        labels.common(pipeline.name),
        {
            "spec": {
                "type": "ClusterIP",
                "clusterIP": "None",
                "publishNotReadyAddresses": True,
                "selector": labels.head_selector(pipeline.name),
                "ports": [service_port(name, port) for name, port in control_ports().items()],
            }
        },
    )


def service_port(name: str, port: int) -> dict[str, Any]:
    return {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}
