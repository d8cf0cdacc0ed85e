"""Builds the Kubernetes objects of a pipeline: one module for each kind. Pure: equal input gives equal objects."""

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests.claims import claims
from omni_operator.planning.manifests.config import config_map, service_account
from omni_operator.planning.manifests.deployments import head_deployment, stage_deployment
from omni_operator.planning.manifests.disruption import disruption_budget
from omni_operator.planning.manifests.monitors import pod_monitors
from omni_operator.planning.manifests.network import network_policies
from omni_operator.planning.manifests.prefetch import prefetch_jobs
from omni_operator.planning.manifests.services import api_service, head_service
from omni_operator.planning.topology.records import Topology


def children(pipeline: OmniPipeline, topology: Topology, worker_image: str, secret: str) -> list[Object]:
    """Every object of a pipeline except its Secret, in the order in which to create them.

    `secret`: the Secret's content, whose hash restarts the pods when it changes
    """
    return [
        service_account(pipeline),
        config_map(pipeline, topology),
        *claims(pipeline),
        *prefetch_jobs(pipeline, worker_image),
        head_service(pipeline, topology),
        api_service(pipeline),
        *network_policies(pipeline),
        *pod_monitors(pipeline),
        *(disruption_budget(pipeline, process) for process in topology.replicas),
        head_deployment(pipeline, topology, worker_image, secret),
        *(stage_deployment(pipeline, topology, process, worker_image, secret) for process in topology.replicas),
    ]
