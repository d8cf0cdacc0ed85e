"""The Services of a pipeline: one for clients, and one with which replicas find the head before it is ready."""

from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import child
from omni_operator.planning.manifests.pod import control_ports
from omni_operator.planning.topology.records import CLUSTER_HEAD, Topology


def api_service(pipeline: OmniPipeline) -> Object:
    # With TLS the port keeps its name, because other objects refer to it.
    port = service_port("http", CLUSTER_HEAD.api, "https" if pipeline.speaks_tls else "http")
    settings = pipeline.spec.service
    optional = {
        "ipFamilyPolicy": settings.ip_family_policy,
        "loadBalancerClass": settings.load_balancer_class,
        "loadBalancerSourceRanges": list(settings.load_balancer_source_ranges),
    }
    return child(
        pipeline,
        "v1",
        "Service",
        pipeline.name,
        labels.common(pipeline.name),
        {
            "spec": {
                **{key: value for key, value in optional.items() if value},
                "type": settings.type,
                "selector": labels.head_selector(pipeline.name),
                "ports": [port],
            }
        },
        annotations=settings.annotations,
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
                "ports": [service_port(name, port, "tcp") for name, port in control_ports().items()],
            }
        },
    )


def service_port(name: str, port: int, protocol: str) -> dict[str, Any]:
    """`protocol`: what a mesh, an Ingress or a Gateway sees on the port."""
    return {"name": name, "port": port, "targetPort": name, "protocol": "TCP", "appProtocol": protocol}
