"""The command lines of `omni serve`: one function for heads, one for headless processes, and their groups of flags.

A contract test parses every one of them with the worker's own parser. A setting that the pipeline leaves open has no
flag, so the worker chooses it, and an upgrade of the operator restarts no pod.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from omni_operator.crd.quantities import integer_quantity
from omni_operator.crd.spec.parts import Model
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Stage
from omni_operator.planning.topology.files import ProcessFiles
from omni_operator.planning.topology.model_sources import model_location
from omni_operator.planning.topology.records import HeadPorts, ReplicaPorts
from omni_operator.planning.topology.stage_config import stage_id


@dataclass(frozen=True)
class HeadNetwork:
    """The ports of a head, and the host that it binds to. None: all interfaces."""

    ports: HeadPorts
    host: str | None = None


@dataclass(frozen=True)
class ReplicaNetwork:
    """The ports and addresses of a headless process.

    address: where heads reach its replicas
    master_host, master_port: where it finds the head's master
    host: what it binds to; None for all interfaces
    """

    ports: ReplicaPorts
    address: str
    master_host: str
    master_port: int
    host: str | None = None


def head_arguments(pipeline: OmniPipeline, network: HeadNetwork, files: ProcessFiles) -> tuple[str, ...]:
    """The command line of a head, after `omni`."""
    ports, stage = network.ports, pipeline.spec.stages[pipeline.head_stage]
    local_replicas, load_balancing = pipeline.spec.head.local_replicas, pipeline.spec.load_balancing
    arguments = [
        "serve",
        model_location(pipeline.spec.model),
        f"--stage-id={stage_id(pipeline, stage)}",
        f"--port={ports.api}",
        f"--omni-master-port={ports.master}",
        f"--omni-coordinator-port={ports.coordinator}",
        f"--omni-coordinator-pub-port={ports.coordinator_pub}",
        f"--omni-dp-size-local={local_replicas}",
        f"--omni-lb-policy={load_balancing.policy}",
        f"--omni-heartbeat-timeout={load_balancing.heartbeat_timeout_seconds}",
        f"--stage-config={files.stage_config}",
        f"--omni-secret-file={files.keys}",
        f"--served-model-name={pipeline.name}",
        f"--drain-timeout={head_drain_seconds(pipeline)}",
        *([f"--api-key-file={files.api_keys}"] if files.api_keys else []),
        *revision_flags(pipeline.spec.model),
        *api_flags(pipeline, files),
        *video_flags(pipeline, files),
    ]
    if network.host is not None:
        arguments += [f"--host={network.host}", f"--omni-master-address={network.host}"]
    if local_replicas:
        arguments += [f"--omni-replica-port={ports.data}", *engine_flags(pipeline, stage)]
    return (*arguments, *pipeline.spec.head.extra_args)


def head_drain_seconds(pipeline: OmniPipeline) -> int:
    """The head must outlive a request that has just started, which may take the drain time of every stage."""
    return sum(stage.longest_request_seconds for stage in pipeline.spec.stages)


def replica_arguments(
    pipeline: OmniPipeline, stage: Stage, network: ReplicaNetwork, files: ProcessFiles
) -> tuple[str, ...]:
    """The command line of a headless process, after `omni`."""
    model = pipeline.model_of(stage)
    arguments = [
        "serve",
        model_location(model),
        "--headless",
        f"--stage-id={stage_id(pipeline, stage)}",
        f"--engine={stage.engine}",
        *([f"--task={stage.task}"] if stage.only_encodes else []),
        f"--port={network.ports.http}",
        f"--omni-master-address={network.master_host}",
        f"--omni-master-port={network.master_port}",
        f"--omni-dp-size-local={stage.local_replicas}",
        f"--omni-replica-address={network.address}",
        f"--omni-replica-port={network.ports.data}",
        f"--omni-secret-file={files.keys}",
        *engine_flags(pipeline, stage),
        f"--drain-timeout={stage.drain.timeout_seconds}",
        *revision_flags(model),
    ]
    if network.host is not None:
        arguments.append(f"--host={network.host}")
    return (*arguments, *stage.extra_args)


def api_flags(pipeline: OmniPipeline, files: ProcessFiles) -> list[str]:
    """The flags of the HTTP API that the pipeline sets."""
    settings = pipeline.spec.api
    limits = settings.limits
    flags = {
        "--max-pixels": limits.pixels,
        "--max-steps": limits.steps,
        "--max-frames": limits.frames,
        "--max-video-pixels": limits.video_pixels,
        "--max-audio-seconds": limits.audio_seconds,
        "--max-n": limits.answers,
        "--max-prompt-length": limits.prompt_length,
        "--max-body-bytes": integer_quantity(limits.body_size) if limits.body_size else None,
        "--max-buffered-bytes": integer_quantity(limits.total_body_size) if limits.total_body_size else None,
        "--result-cache-bytes": integer_quantity(settings.result_cache_size) if settings.result_cache_size else None,
        "--max-loras": limits.loras,
        "--max-lora-bytes": integer_quantity(limits.lora_size) if limits.lora_size else None,
    }
    return [
        *([f"--ssl-certfile={files.tls[0]}", f"--ssl-keyfile={files.tls[1]}"] if files.tls else []),
        *(f"--cors-origin={origin}" for origin in settings.cors_origins),
        *([] if settings.playground else ["--no-playground"]),
        *flags_with_values(flags),
    ]


def video_flags(pipeline: OmniPipeline, files: ProcessFiles) -> list[str]:
    """The flags of videos that the pipeline sets."""
    settings = pipeline.spec.videos
    return flags_with_values(
        {
            "--data-dir": files.videos,
            "--video-jobs": settings.jobs,
            "--video-max-age": settings.max_age_hours,
            "--video-max-bytes": integer_quantity(settings.max_size) if settings.max_size else None,
        }
    )


def flags_with_values(flags: Mapping[str, object]) -> list[str]:
    """`--flag=value` for each flag whose value is not None."""
    return [f"{flag}={value}" for flag, value in flags.items() if value is not None]


def revision_flags(model: Model) -> list[str]:
    return [f"--revision={model.revision}"] if model.revision else []


def engine_flags(pipeline: OmniPipeline, stage: Stage) -> list[str]:
    """The flags of the engine in every replica of a stage."""
    return [
        *(autoregressive_flags(stage) if stage.is_autoregressive else diffusion_flags(stage)),
        *(["--no-text-encoder"] if needs_no_text_encoder(pipeline, stage) else []),
        *load_flags(stage),
        f"--max-num-seqs={stage.scheduling.max_num_seqs}",
        f"--max-waiting={stage.scheduling.max_waiting}",
        f"--scheduling-policy={stage.scheduling.policy}",
        f"--stage-init-timeout={stage.startup_timeout_seconds}",
    ]


def load_flags(stage: Stage) -> list[str]:
    """What the stage sets about loading, as one flag."""
    settings = stage.load.model_dump_json(by_alias=True, exclude_defaults=True)
    return [f"--load={settings}"] if settings != "{}" else []


def autoregressive_flags(stage: Stage) -> list[str]:
    ranks = stage.parallelism.pipeline
    return [f"--pipeline-parallel-size={ranks}"] if ranks > 1 else []


def diffusion_flags(stage: Stage) -> list[str]:
    return [
        "--step-execution" if stage.scheduling.mode == "step" else "--no-step-execution",
        f"--cfg-parallel-size={stage.parallelism.cfg}",
        *([] if stage.cache is None else [f"--cache={stage.cache.argument}"]),
        *([f"--ulysses-degree={degree}"] if (degree := stage.parallelism.ulysses) > 1 else []),
        *([f"--ring-degree={degree}"] if (degree := stage.parallelism.ring) > 1 else []),
        *([f"--tensor-parallel-size={degree}"] if (degree := stage.parallelism.tensor) > 1 else []),
        *([f"--prompt-cache-bytes={integer_quantity(size)}"] if (size := stage.prompt_cache_size) else []),
    ]


def needs_no_text_encoder(pipeline: OmniPipeline, stage: Stage) -> bool:
    """Whether the stage before encodes every prompt of a diffusion stage."""
    position = pipeline.spec.stages.index(stage)
    return position > 0 and stage.takes_hidden_states and pipeline.spec.stages[position - 1].only_encodes
