"""The HTTPRoute by which a Gateway passes requests to a pipeline's API."""

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import child
from omni_operator.planning.topology.records import CLUSTER_HEAD


def http_routes(pipeline: OmniPipeline) -> list[Object]:
    """One, or none if the pipeline asks for none."""
    route = pipeline.spec.service.route
    if route is None:
        return []
    gateways = [gateway.model_dump(by_alias=True, exclude_none=True) for gateway in route.parent_refs]
    # With the kind and group that the server would add, so that the object is what we applied.
    backend = {"group": "", "kind": "Service", "name": pipeline.name, "port": CLUSTER_HEAD.api, "weight": 1}
    spec = {
        "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", **gateway} for gateway in gateways],
        **({"hostnames": list(route.hostnames)} if route.hostnames else {}),
        "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [backend]}],
    }
    own_labels = labels.common(pipeline.name)
    return [child(pipeline, "gateway.networking.k8s.io/v1", "HTTPRoute", pipeline.name, own_labels, {"spec": spec})]
