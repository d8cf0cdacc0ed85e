"""From a pipeline to the processes that serve it: their command lines, ports, addresses and devices.

Both backends start from here, so a pipeline is wired the same way in a cluster and on a laptop. In a cluster ports are
fixed and addresses are Service names; on one machine everything is 127.0.0.1 and the caller gives the free ports. Pure:
nothing is started, opened or looked up.

Stages are numbered from the last, which is 0. A stage is added in front of others, as a thinker is to a painter, and so
leaves the numbers of those that follow, and with them their command lines and their pods, as they are.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath

from omni_operator.crd.patterns import HEAD
from omni_operator.crd.quantities import whole
from omni_operator.crd.spec.parts import Model, SecretKey
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Stage

LOOPBACK = "127.0.0.1"
STAGE_CONFIG_DIR = "/etc/omnipipeline"
STAGE_CONFIG_FILE = "stages.json"
KEYS_DIR = "/etc/omnipipeline-keys"
KEYS_FILE = "secret"
API_KEYS_DIR = "/etc/omnipipeline-api"
API_KEYS_FILE = "keys"
TLS_DIR = "/etc/omnipipeline-tls"
CERTIFICATE_FILE = "tls.crt"
PRIVATE_KEY_FILE = "tls.key"
VIDEOS_DIR = "/videos"
MODELS_DIR = "/models"
PVC = "pvc://"
HUB = "hf://"


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
    stage: Stage
    """Which it runs; of a head, the one whose replicas it may hold."""
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
    claims: tuple[str, ...]
    """PersistentVolumeClaims with the models that it reads."""
    downloads: bool
    """Whether it takes a model from the hub."""
    token: SecretKey | None
    """Where the model hub's access token is."""
    startup_seconds: int
    drain_seconds: int


@dataclass(frozen=True)
class Topology:
    """Everything that runs for one pipeline."""

    pipeline: str
    namespace: str
    stages: tuple[Stage, ...]
    stage_config: str
    """Content of the file that tells the head its stages. Without counts: scaling must not restart the head."""
    head: Process
    replicas: tuple[Process, ...]

    @property
    def processes(self) -> tuple[Process, ...]:
        return (self.head, *self.replicas)

    @property
    def unasked(self) -> tuple[str, ...]:
        """Stages of which no replica is asked for, in a pod or in the head, so that no request gets past them."""
        asked = {process.stage.name for process in self.processes if process.copies and process.data_ports}
        asked |= {stage.name for stage in self.stages if stage.may_be_at_zero}
        return tuple(stage.name for stage in self.stages if stage.name not in asked)


def in_cluster(pipeline: OmniPipeline, counts: Mapping[str, int] | None = None) -> Topology:
    """The pipeline on Kubernetes: a head, and one kind of headless process a stage.

    `counts`: pods of the stages whose count is not the spec's to say, by name.
    """
    head_name = f"{pipeline.name}-{HEAD}"
    files = Files(
        f"{STAGE_CONFIG_DIR}/{STAGE_CONFIG_FILE}",
        f"{KEYS_DIR}/{KEYS_FILE}",
        f"{API_KEYS_DIR}/{API_KEYS_FILE}" if pipeline.spec.api_key_secret_ref else None,
        (f"{TLS_DIR}/{CERTIFICATE_FILE}", f"{TLS_DIR}/{PRIVATE_KEY_FILE}") if pipeline.speaks_tls else None,
        VIDEOS_DIR if pipeline.spec.videos.storage else None,
    )
    head = head_process(pipeline, head_name, CLUSTER_HEAD, files)
    replicas = tuple(
        replica_process(
            pipeline,
            stage,
            f"{pipeline.name}-{stage.name}",
            ports=CLUSTER_REPLICA,
            files=files,
            master=(f"{head_name}.{pipeline.namespace}.svc", CLUSTER_HEAD.master),
            address="$(POD_IP)",
            copies=(counts or {}).get(stage.name, pipeline.replicas_of(stage)),
        )
        for stage in pipeline.spec.stages
    )
    if pipeline.spec.suspend:
        head, replicas = replace(head, copies=0), tuple(replace(process, copies=0) for process in replicas)
    return Topology(pipeline.name, pipeline.namespace, pipeline.spec.stages, stage_config(pipeline), head, replicas)


def on_this_machine(
    pipeline: OmniPipeline, api_port: int, free_ports: Callable[[int], int], folder: PurePath
) -> Topology:
    """The pipeline as local processes, one for each copy, which read STAGE_CONFIG_FILE and KEYS_FILE in `folder`.

    `free_ports(n)` gives the first of n consecutive free ports, never the same ones twice.
    """
    ports = HeadPorts(
        api_port, free_ports(1), free_ports(1), free_ports(1), free_ports(pipeline.spec.head.local_replicas)
    )
    files = Files(str(folder / STAGE_CONFIG_FILE), str(folder / KEYS_FILE))
    head = head_process(pipeline, HEAD, ports, files, host=LOOPBACK)
    replicas = tuple(
        replica_process(
            pipeline,
            stage,
            f"{stage.name}-{copy}",
            ports=ReplicaPorts(free_ports(1), free_ports(stage.local_replicas)),
            files=files,
            master=(LOOPBACK, ports.master),
            address=LOOPBACK,
            host=LOOPBACK,
        )
        for stage in pipeline.spec.stages
        for copy in range(max(pipeline.replicas_of(stage), stage.may_be_at_zero))  # nobody could start one later
    )
    return Topology(pipeline.name, pipeline.namespace, pipeline.spec.stages, stage_config(pipeline), head, replicas)


# ---- stages and their models


def stage_id(pipeline: OmniPipeline, stage: Stage) -> int:
    return len(pipeline.spec.stages) - 1 - pipeline.spec.stages.index(stage)


def stage_config(pipeline: OmniPipeline) -> str:
    """What the head is told of its stages, in the order in which a request passes them."""
    return json.dumps({"stages": [stage_entry(pipeline, stage) for stage in pipeline.spec.stages]}, indent=2) + "\n"


def stage_entry(pipeline: OmniPipeline, stage: Stage) -> dict[str, object]:
    entry: dict[str, object] = {"id": stage_id(pipeline, stage), "name": stage.name, "engine": stage.engine}
    if stage.task:
        entry["task"] = stage.task
    if stage.system:
        entry["system"] = stage.system
    if stage.max_tokens:
        entry["max_tokens"] = stage.max_tokens
    if stage.input:
        entry["input"] = stage.input
    if stage.model:
        entry["model"] = location(stage.model)
        if stage.model.revision:
            entry["revision"] = stage.model.revision
    if stage.may_be_at_zero:
        entry["wake_seconds"] = stage.startup_timeout_seconds
    return entry


def location(model: Model) -> str:
    """The model as the worker finds it: claims are mounted in MODELS_DIR, each under its own name."""
    return f"{MODELS_DIR}/{model.source.removeprefix(PVC)}".rstrip("/") if claim_of(model) else model.source


def is_on_hub(model: Model) -> bool:
    return model.source.startswith(HUB)


def claim_of(model: Model) -> str | None:
    """The PersistentVolumeClaim that holds the model, if one does."""
    return model.source.removeprefix(PVC).partition("/")[0] if model.source.startswith(PVC) else None


def claims_of(models: Iterable[Model]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(claim for model in models if (claim := claim_of(model))))


def needs_no_text_encoder(pipeline: OmniPipeline, stage: Stage) -> bool:
    """Whether the stage before does all encoding for a diffusion stage."""
    place = pipeline.spec.stages.index(stage)
    return place > 0 and stage.takes_hidden_states and pipeline.spec.stages[place - 1].only_encodes


# ---- processes


@dataclass(frozen=True)
class Files:
    """Where a process finds what it is given as files."""

    stage_config: str
    keys: str
    api_keys: str | None = None
    tls: tuple[str, str] | None = None
    """Certificate and private key of the API."""
    videos: str | None = None
    """The folder that outlasts the head."""


def head_process(pipeline: OmniPipeline, name: str, ports: HeadPorts, files: Files, host: str | None = None) -> Process:
    stages = pipeline.spec.stages
    stage = stages[pipeline.head_stage]
    local = pipeline.spec.head.local_replicas
    # The head outlives a request that has just begun, which may take its time in every stage.
    drain = sum(stage.drain.timeout_seconds for stage in stages)
    arguments = [
        "serve",
        location(pipeline.spec.model),
        f"--stage-id={stage_id(pipeline, stage)}",
        f"--port={ports.api}",
        f"--omni-master-port={ports.master}",
        f"--omni-coordinator-port={ports.coordinator}",
        f"--omni-coordinator-pub-port={ports.coordinator_pub}",
        f"--omni-dp-size-local={local}",
        f"--omni-lb-policy={pipeline.spec.load_balancing.policy}",
        f"--omni-heartbeat-timeout={pipeline.spec.load_balancing.heartbeat_timeout_seconds}",
        f"--stage-config={files.stage_config}",
        f"--omni-secret-file={files.keys}",
        f"--served-model-name={pipeline.name}",
        f"--drain-timeout={drain}",
        *([f"--api-key-file={files.api_keys}"] if files.api_keys else []),
        *revision(pipeline.spec.model),
        *api(pipeline, files),
        *videos(pipeline, files),
    ]
    if host is not None:
        arguments += [f"--host={host}", f"--omni-master-address={host}"]
    if local:
        arguments += [f"--omni-replica-port={ports.data}", *engine(pipeline, stage)]
    return Process(
        name=name,
        stage=stage,
        stage_id=stage_id(pipeline, stage),
        is_head=True,
        arguments=tuple(arguments),
        http_port=ports.api,
        data_ports=tuple(range(ports.data, ports.data + local)),
        copies=1,
        devices=devices(stage, local),
        resource=stage.accelerator.resource if stage.accelerator else None,
        # It compares the models of all stages with those of their replicas.
        claims=claims_of(pipeline.models.values()),
        downloads=any(map(is_on_hub, pipeline.models.values())),
        token=pipeline.model_of(stage).token_secret_ref,
        # It is ready when a replica of every stage is.
        startup_seconds=max(stage.startup_timeout_seconds for stage in stages),
        drain_seconds=drain,
    )


def replica_process(
    pipeline: OmniPipeline,
    stage: Stage,
    name: str,
    ports: ReplicaPorts,
    files: Files,
    master: tuple[str, int],
    address: str,
    copies: int = 1,
    host: str | None = None,
) -> Process:
    model = pipeline.model_of(stage)
    arguments = [
        "serve",
        location(model),
        "--headless",
        f"--stage-id={stage_id(pipeline, stage)}",
        f"--engine={stage.engine}",
        *([f"--task={stage.task}"] if stage.only_encodes else []),
        f"--port={ports.http}",
        f"--omni-master-address={master[0]}",
        f"--omni-master-port={master[1]}",
        f"--omni-dp-size-local={stage.local_replicas}",
        f"--omni-replica-address={address}",
        f"--omni-replica-port={ports.data}",
        f"--omni-secret-file={files.keys}",
        *engine(pipeline, stage),
        f"--drain-timeout={stage.drain.timeout_seconds}",
        *revision(model),
    ]
    if host is not None:
        arguments.append(f"--host={host}")
    return Process(
        name=name,
        stage=stage,
        stage_id=stage_id(pipeline, stage),
        is_head=False,
        arguments=tuple(arguments),
        http_port=ports.http,
        data_ports=tuple(range(ports.data, ports.data + stage.local_replicas)),
        copies=copies,
        devices=devices(stage, stage.local_replicas),
        resource=stage.accelerator.resource if stage.accelerator else None,
        claims=claims_of([model]),
        downloads=is_on_hub(model),
        token=model.token_secret_ref,
        startup_seconds=stage.startup_timeout_seconds,
        drain_seconds=stage.drain.timeout_seconds,
    )


def api(pipeline: OmniPipeline, files: Files) -> list[str]:
    """The flags of the API that the pipeline says something of."""
    wanted = pipeline.spec.api
    limits = {
        "--max-pixels": wanted.limits.pixels,
        "--max-steps": wanted.limits.steps,
        "--max-frames": wanted.limits.frames,
        "--max-n": wanted.limits.answers,
        "--max-prompt-length": wanted.limits.prompt_length,
        "--max-body-bytes": whole(wanted.limits.body_size) if wanted.limits.body_size else None,
    }
    return [
        *([f"--ssl-certfile={files.tls[0]}", f"--ssl-keyfile={files.tls[1]}"] if files.tls else []),
        *(f"--cors-origin={origin}" for origin in wanted.cors_origins),
        *([] if wanted.playground else ["--no-playground"]),
        *given(limits),
    ]


def videos(pipeline: OmniPipeline, files: Files) -> list[str]:
    """The flags of the videos that the pipeline says something of."""
    wanted = pipeline.spec.videos
    retention = {
        "--data-dir": files.videos,
        "--video-jobs": wanted.jobs,
        "--video-max-age": wanted.max_age_hours,
        "--video-max-bytes": whole(wanted.max_size) if wanted.max_size else None,
    }
    return given(retention)


def given(flags: Mapping[str, object]) -> list[str]:
    """Those that have a value; the others are the worker's to choose."""
    return [f"{flag}={value}" for flag, value in flags.items() if value is not None]


def revision(model: Model) -> list[str]:
    return [f"--revision={model.revision}"] if model.revision else []


def engine(pipeline: OmniPipeline, stage: Stage) -> list[str]:
    """The flags of the engine in every replica of a stage."""
    own = autoregressive(stage) if stage.is_autoregressive else diffusion(stage)
    return [
        *own,
        *(["--no-text-encoder"] if needs_no_text_encoder(pipeline, stage) else []),
        f"--max-num-seqs={stage.scheduling.max_num_seqs}",
        f"--max-waiting={stage.scheduling.max_waiting}",
        f"--scheduling-policy={stage.scheduling.policy}",
        f"--stage-init-timeout={stage.startup_timeout_seconds}",
    ]


def autoregressive(stage: Stage) -> list[str]:
    ranks = stage.parallelism.pipeline
    return [f"--pipeline-parallel-size={ranks}"] if ranks > 1 else []


def diffusion(stage: Stage) -> list[str]:
    return [
        "--step-execution" if stage.scheduling.mode == "step" else "--no-step-execution",
        f"--cfg-parallel-size={stage.parallelism.cfg}",
    ]


def devices(stage: Stage, replicas: int) -> int:
    return stage.accelerator.count * replicas if stage.accelerator else 0
