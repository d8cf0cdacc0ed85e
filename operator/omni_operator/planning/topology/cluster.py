"""The processes of a pipeline on Kubernetes: fixed ports, Service names, and a pod count for each kind of process."""

from collections.abc import Mapping
from dataclasses import replace

from omni_operator.crd.patterns import HEAD
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.topology.command_line import HeadNetwork, ReplicaNetwork
from omni_operator.planning.topology.files import files_in_pods
from omni_operator.planning.topology.processes import head_process, replica_process
from omni_operator.planning.topology.records import CLUSTER_HEAD, CLUSTER_REPLICA, Topology
from omni_operator.planning.topology.stage_config import stage_config


def cluster_topology(pipeline: OmniPipeline, counts: Mapping[str, int] | None = None) -> Topology:
    """The pipeline on Kubernetes: a head, and one kind of headless process for each stage that has replicas.

    `counts`: pods of the stages whose count an autoscaler decides, by name.
    """
    head_name, files = f"{pipeline.name}-{HEAD}", files_in_pods(pipeline)
    network = ReplicaNetwork(
        ports=CLUSTER_REPLICA,
        address="$(POD_IP)",  # Kubernetes expands it
        master_host=f"{head_name}.{pipeline.namespace}.svc",
        master_port=CLUSTER_HEAD.master,
    )
    head = head_process(pipeline, head_name, HeadNetwork(CLUSTER_HEAD), files)
    replicas = tuple(
        replica_process(
            pipeline,
            stage,
            f"{pipeline.name}-{stage.name}",
            network,
            files,
            copies=(counts or {}).get(stage.name, pipeline.replicas_of(stage)),
        )
        for stage in pipeline.spec.stages
        if not stage.is_endpoint
    )
    if pipeline.spec.suspend:
        head, replicas = replace(head, copies=0), tuple(replace(process, copies=0) for process in replicas)
    return Topology(
        pipeline.name, pipeline.namespace, pipeline.spec.stages, stage_config(pipeline, files), head, replicas
    )
