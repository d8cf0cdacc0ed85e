"""Builds the `Process` of a head and of a headless process: what each runs, reads, needs and may take in time."""

from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Stage
from omni_operator.planning.topology.command_line import (
    HeadNetwork,
    ReplicaNetwork,
    head_arguments,
    head_drain_seconds,
    replica_arguments,
)
from omni_operator.planning.topology.files import ProcessFiles
from omni_operator.planning.topology.model_sources import claims_of, image_of, images_of_loras, is_on_hub
from omni_operator.planning.topology.records import Process
from omni_operator.planning.topology.stage_config import loras_for, stage_id


def head_process(pipeline: OmniPipeline, name: str, network: HeadNetwork, files: ProcessFiles) -> Process:
    stage = pipeline.spec.stages[pipeline.head_stage]
    local_replicas = pipeline.spec.head.local_replicas
    loras = loras_for(pipeline, stage) if local_replicas else ()
    return Process(
        name=name,
        stage=stage,
        stage_id=stage_id(pipeline, stage),
        is_head=True,
        arguments=head_arguments(pipeline, network, files),
        http_port=network.ports.api,
        data_ports=tuple(range(network.ports.data, network.ports.data + local_replicas)),
        copies=1,
        devices=devices_of(stage, local_replicas),
        resource=resource_of(stage),
        # The head computes the digest of every stage's model, and rejects replicas that registered with another one.
        # That of a folder is computed from its files. That of a model on the hub is its name and revision, and that of
        # an image the image's digest, so a head without replicas needs neither the cache, nor the token, nor the image.
        claims=claims_of([*pipeline.models.values(), *loras]),
        image=image_of(pipeline.model_of(stage)) if local_replicas else None,
        lora_images=images_of_loras(loras),
        downloads=bool(local_replicas) and is_on_hub(pipeline.model_of(stage)),
        token=pipeline.model_of(stage).token_secret_ref if local_replicas else None,
        # The head is ready only when every stage has a replica.
        startup_seconds=max(stage.startup_timeout_seconds for stage in pipeline.spec.stages),
        drain_seconds=head_drain_seconds(pipeline),
    )


def replica_process(
    pipeline: OmniPipeline, stage: Stage, name: str, network: ReplicaNetwork, files: ProcessFiles, copies: int = 1
) -> Process:
    """A headless process of a stage."""
    model, loras = pipeline.model_of(stage), loras_for(pipeline, stage)
    return Process(
        name=name,
        stage=stage,
        stage_id=stage_id(pipeline, stage),
        is_head=False,
        arguments=replica_arguments(pipeline, stage, network, files),
        http_port=network.ports.http,
        data_ports=tuple(range(network.ports.data, network.ports.data + stage.local_replicas)),
        copies=copies,
        devices=devices_of(stage, stage.local_replicas),
        resource=resource_of(stage),
        claims=claims_of([model, *loras]),
        image=image_of(model),
        lora_images=images_of_loras(loras),
        downloads=is_on_hub(model),
        token=model.token_secret_ref,
        startup_seconds=stage.startup_timeout_seconds,
        drain_seconds=stage.drain.timeout_seconds,
    )


def devices_of(stage: Stage, replicas: int) -> int:
    """Accelerators of that many replicas of a stage."""
    return stage.accelerator.count * replicas if stage.accelerator else 0


def resource_of(stage: Stage) -> str | None:
    return stage.accelerator.extended_resource if stage.accelerator else None
