"""The processes of a pipeline on one machine: 127.0.0.1, ports that the caller finds, and one process for each copy."""

from collections.abc import Callable
from pathlib import PurePath

from omni_operator.crd.patterns import HEAD
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Stage
from omni_operator.planning.topology.command_line import HeadNetwork, ReplicaNetwork
from omni_operator.planning.topology.files import files_in_folder
from omni_operator.planning.topology.processes import head_process, replica_process
from omni_operator.planning.topology.records import LOOPBACK, HeadPorts, ReplicaPorts, Topology
from omni_operator.planning.topology.stage_config import stage_config


def local_topology(
    pipeline: OmniPipeline, api_port: int, free_ports: Callable[[int], int], folder: PurePath
) -> Topology:
    """The pipeline as local processes, which read STAGE_CONFIG_FILE and KEYS_FILE in `folder`.

    `free_ports(n)` returns the first of n consecutive free ports, and never the same port twice.
    """
    head_ports = HeadPorts(
        api=api_port,
        master=free_ports(1),
        coordinator=free_ports(1),
        coordinator_pub=free_ports(1),
        data=free_ports(pipeline.spec.head.local_replicas),
    )
    files = files_in_folder(folder)

    def network(stage: Stage) -> ReplicaNetwork:
        ports = ReplicaPorts(http=free_ports(1), data=free_ports(stage.local_replicas))
        return ReplicaNetwork(ports, LOOPBACK, LOOPBACK, head_ports.master, host=LOOPBACK)

    head = head_process(pipeline, HEAD, HeadNetwork(head_ports, LOOPBACK), files)
    replicas = tuple(
        replica_process(pipeline, stage, f"{stage.name}-{copy}", network(stage), files)
        for stage in pipeline.spec.stages
        if not stage.is_endpoint
        # A stage that may be at zero has one copy: nothing could start it later.
        for copy in range(max(pipeline.replicas_of(stage), stage.may_be_at_zero))
    )
    return Topology(
        pipeline.name, pipeline.namespace, pipeline.spec.stages, stage_config(pipeline, files), head, replicas
    )
