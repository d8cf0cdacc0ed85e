"""From a pipeline to the processes that serve it: their command lines, ports, addresses and devices.

Both backends start from here, so a pipeline is wired the same way in a cluster and on a laptop. In a cluster ports are
fixed and addresses are Service names; on one machine everything is 127.0.0.1 and the caller gives the free ports. Pure:
nothing is started, opened or looked up.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from omni_operator.spec import HEAD, OmniPipeline, Stage

LOOPBACK = "127.0.0.1"
STAGE_CONFIG_DIR = "/etc/omnipipeline"
STAGE_CONFIG_FILE = "stages.json"
MODELS_DIR = "/models"


@dataclass(frozen=True)
class HeadPorts:
    """Where a head listens. Replicas inside it take one data port each, from `data` on."""

    api: int = 8000
    master: int = 9000
    coordinator: int = 9001
    coordinator_pub: int = 9002
    data: int = 9100


@dataclass(frozen=True)
class ReplicaPorts:
    """Where a headless process listens: probes and metrics, and one data port a replica, from `data` on."""

    http: int = 8000
    data: int = 9100


CLUSTER_HEAD = HeadPorts()
CLUSTER_REPLICA = ReplicaPorts()


@dataclass(frozen=True)
class Process:
    """One kind of process; a cluster runs `copies` of it, one machine one Process a copy."""

    name: str
    stage: str
    stage_id: int
    is_head: bool
    arguments: tuple[str, ...]
    """What follows `omni` on the command line."""
    http_port: int
    data_ports: tuple[int, ...]
    copies: int
    devices: int
    """Accelerators of one copy, over all its replicas."""
    resource: str | None
    startup_seconds: int
    drain_seconds: int


@dataclass(frozen=True)
class Topology:
    """Everything that runs for one pipeline."""

    pipeline: str
    namespace: str
    stage_config: str
    """Content of the file that tells the head its stages. Without counts: scaling must not restart the head."""
    head: Process
    replicas: tuple[Process, ...]

    @property
    def processes(self) -> tuple[Process, ...]:
        return (self.head, *self.replicas)


def in_cluster(pipeline: OmniPipeline) -> Topology:
    """The pipeline on Kubernetes: a head, and one kind of headless process a stage."""
    head_name = f"{pipeline.name}-{HEAD}"
    head = head_process(
        pipeline,
        head_name,
        model=model_in_cluster(pipeline),
        ports=CLUSTER_HEAD,
        stage_config=f"{STAGE_CONFIG_DIR}/{STAGE_CONFIG_FILE}",
    )
    replicas = tuple(
        replica_process(
            pipeline,
            stage_id,
            f"{pipeline.name}-{stage.name}",
            model=model_in_cluster(pipeline),
            ports=CLUSTER_REPLICA,
            master=(f"{head_name}.{pipeline.namespace}.svc", CLUSTER_HEAD.master),
            address="$(POD_IP)",
            copies=pipeline.replicas_of(stage),
        )
        for stage_id, stage in enumerate(pipeline.spec.stages)
    )
    return Topology(pipeline.name, pipeline.namespace, stage_config(pipeline), head, replicas)


def on_this_machine(
    pipeline: OmniPipeline, api_port: int, free_ports: Callable[[int], int], stage_config_file: str
) -> Topology:
    """The pipeline as local processes, one for each copy.

    `free_ports(n)` gives the first of n consecutive free ports, never the same ones twice.
    """
    ports = HeadPorts(
        api_port, free_ports(1), free_ports(1), free_ports(1), free_ports(pipeline.spec.head.local_replicas)
    )
    model = pipeline.spec.model.source
    head = head_process(pipeline, HEAD, model, ports, stage_config_file, host=LOOPBACK)
    replicas = tuple(
        replica_process(
            pipeline,
            stage_id,
            f"{stage.name}-{copy}",
            model=model,
            ports=ReplicaPorts(free_ports(1), free_ports(stage.local_replicas)),
            master=(LOOPBACK, ports.master),
            address=LOOPBACK,
            host=LOOPBACK,
        )
        for stage_id, stage in enumerate(pipeline.spec.stages)
        for copy in range(pipeline.replicas_of(stage))
    )
    return Topology(pipeline.name, pipeline.namespace, stage_config(pipeline), head, replicas)


def stage_config(pipeline: OmniPipeline) -> str:
    stages = [{"id": i, "name": stage.name, "engine": stage.engine} for i, stage in enumerate(pipeline.spec.stages)]
    return json.dumps({"stages": stages}, indent=2) + "\n"


def model_in_cluster(pipeline: OmniPipeline) -> str:
    """The model as the worker in a pod finds it: a claim is mounted at MODELS_DIR."""
    claim = claim_of(pipeline)
    if claim is None:
        return pipeline.spec.model.source
    path = pipeline.spec.model.source.removeprefix(f"pvc://{claim}")
    return f"{MODELS_DIR}{path}".rstrip("/")


def claim_of(pipeline: OmniPipeline) -> str | None:
    """The PersistentVolumeClaim that holds the model, if one does."""
    scheme, _, rest = pipeline.spec.model.source.partition("://")
    return rest.partition("/")[0] if scheme == "pvc" else None


def head_process(
    pipeline: OmniPipeline, name: str, model: str, ports: HeadPorts, stage_config: str, host: str | None = None
) -> Process:
    stage = pipeline.spec.stages[pipeline.head_stage]
    local = pipeline.spec.head.local_replicas
    # The head outlives the slowest stage: it ends only when the requests in flight have.
    drain = max(stage.drain.timeout_seconds for stage in pipeline.spec.stages)
    arguments = [
        "serve",
        model,
        f"--stage-id={pipeline.head_stage}",
        f"--port={ports.api}",
        f"--omni-master-port={ports.master}",
        f"--omni-coordinator-port={ports.coordinator}",
        f"--omni-coordinator-pub-port={ports.coordinator_pub}",
        f"--omni-dp-size-local={local}",
        f"--omni-lb-policy={pipeline.spec.load_balancing.policy}",
        f"--omni-heartbeat-timeout={pipeline.spec.load_balancing.heartbeat_timeout_seconds}",
        f"--stage-config={stage_config}",
        f"--served-model-name={pipeline.name}",
        f"--drain-timeout={drain}",
    ]
    arguments += revision(pipeline)
    if host is not None:
        arguments += [f"--host={host}", f"--omni-master-address={host}"]
    if local:
        arguments += [f"--omni-replica-port={ports.data}", *engine(stage)]
    return Process(
        name=name,
        stage=stage.name,
        stage_id=pipeline.head_stage,
        is_head=True,
        arguments=tuple(arguments),
        http_port=ports.api,
        data_ports=tuple(range(ports.data, ports.data + local)),
        copies=1,
        devices=devices(stage, local),
        resource=stage.accelerator.resource if stage.accelerator else None,
        startup_seconds=stage.startup_timeout_seconds,
        drain_seconds=drain,
    )


def replica_process(
    pipeline: OmniPipeline,
    stage_id: int,
    name: str,
    model: str,
    ports: ReplicaPorts,
    master: tuple[str, int],
    address: str,
    copies: int = 1,
    host: str | None = None,
) -> Process:
    stage = pipeline.spec.stages[stage_id]
    arguments = [
        "serve",
        model,
        "--headless",
        f"--stage-id={stage_id}",
        f"--port={ports.http}",
        f"--omni-master-address={master[0]}",
        f"--omni-master-port={master[1]}",
        f"--omni-dp-size-local={stage.local_replicas}",
        f"--omni-replica-address={address}",
        f"--omni-replica-port={ports.data}",
        *engine(stage),
        f"--drain-timeout={stage.drain.timeout_seconds}",
        *revision(pipeline),
    ]
    if host is not None:
        arguments.append(f"--host={host}")
    return Process(
        name=name,
        stage=stage.name,
        stage_id=stage_id,
        is_head=False,
        arguments=tuple(arguments),
        http_port=ports.http,
        data_ports=tuple(range(ports.data, ports.data + stage.local_replicas)),
        copies=copies,
        devices=devices(stage, stage.local_replicas),
        resource=stage.accelerator.resource if stage.accelerator else None,
        startup_seconds=stage.startup_timeout_seconds,
        drain_seconds=stage.drain.timeout_seconds,
    )


def revision(pipeline: OmniPipeline) -> list[str]:
    return [f"--revision={pipeline.spec.model.revision}"] if pipeline.spec.model.revision else []


def engine(stage: Stage) -> list[str]:
    """The flags of the engine in every replica of a stage."""
    return [
        "--step-execution" if stage.scheduling.mode == "step" else "--no-step-execution",
        f"--max-num-seqs={stage.scheduling.max_num_seqs}",
        f"--max-waiting={stage.scheduling.max_waiting}",
        f"--scheduling-policy={stage.scheduling.policy}",
        f"--cfg-parallel-size={stage.parallelism.cfg}",
        f"--stage-init-timeout={stage.startup_timeout_seconds}",
    ]


def devices(stage: Stage, replicas: int) -> int:
    return stage.accelerator.count * replicas if stage.accelerator else 0
