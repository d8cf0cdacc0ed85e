"""Builds the Kubernetes objects of a pipeline: one module for each kind. Pure: equal input gives equal objects."""

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests.claims import claims
from omni_operator.planning.manifests.config import config_map, service_account
from omni_operator.planning.manifests.deployments import head_deployment, stage_deployment
from omni_operator.planning.manifests.devices import claim_templates
from omni_operator.planning.manifests.disruption import disruption_budget
from omni_operator.planning.manifests.image_pulls import image_pulls
from omni_operator.planning.manifests.monitors import pod_monitors
from omni_operator.planning.manifests.network import network_policies
from omni_operator.planning.manifests.pod import Surroundings
from omni_operator.planning.manifests.prefetch import prefetch_jobs
from omni_operator.planning.manifests.routes import http_routes
from omni_operator.planning.manifests.services import api_service, head_service
from omni_operator.planning.manifests.volume_binding import volume_bindings
from omni_operator.planning.topology.records import Topology


def children(pipeline: OmniPipeline, topology: Topology, surroundings: Surroundings, keys: str) -> list[Object]:
    """Every object of a pipeline except its Secret, in the order in which to create them.

    `keys`: the name of its Secret
    """
    return [
        service_account(pipeline),
        config_map(pipeline, topology),
        *claims(pipeline),
        *claim_templates(pipeline, topology),
        *volume_bindings(pipeline, topology, surroundings),
        *prefetch_jobs(pipeline, topology, surroundings),
        *image_pulls(pipeline, topology, surroundings),
        head_service(pipeline, topology),
        api_service(pipeline),
        *network_policies(pipeline, surroundings.operator_namespace),
        *http_routes(pipeline),
        *pod_monitors(pipeline),
        *(disruption_budget(pipeline, process) for process in topology.replicas),
        head_deployment(pipeline, topology, surroundings, keys),
        *(stage_deployment(pipeline, process, surroundings, keys) for process in topology.replicas),
    ]
