"""What the flags of `omni serve` and the environment say, as a ServeConfig.

This is the only place that reads the flags and the environment variables of a process.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from omni_settings.load import NO_COMPILED_ADAPTERS, LoadSettings
from omni_settings.parallelism import ModelParallelism
from omni_worker.addresses import is_loopback, loopback
from omni_worker.config import api as api_config
from omni_worker.config import load_settings, lora_source, model_source
from omni_worker.config.flags import AUTO_MAX_NUM_SEQS
from omni_worker.config.listen_addresses import ListenAddresses, listen_addresses
from omni_worker.config.model_source import ModelSource
from omni_worker.config.records import EngineConfig, HeadConfig, ServeConfig, Stage
from omni_worker.config.stages import read_stages
from omni_worker.config.visible_devices import visible_devices
from omni_worker.errors import UsageError

COMPILE_CACHE = "omni-compile"
"""The folder of what torch compiles, among the models from the hub."""


def from_arguments(args: argparse.Namespace) -> ServeConfig:
    """Build the configuration from the parsed flags.

    Raises UsageError if flags contradict each other; the message names the flag and what to do.
    """
    model = model_source.parse(args.model, args.revision)
    _check_combinations(args)
    stages = _stages(args, model)
    if args.stage_id not in {stage.id for stage in stages}:
        raise UsageError(f"--stage-id {args.stage_id}: --stage-config names only {[stage.id for stage in stages]}")
    stage = next(stage for stage in stages if stage.id == args.stage_id)
    if stage.endpoint is not None and args.omni_dp_size_local:
        raise UsageError(
            f"--stage-id {stage.id}: stage {stage.name!r} is a server outside the pipeline, and has no replicas; give "
            "--omni-dp-size-local 0, or the --stage-id of another stage"
        )
    addresses = listen_addresses(args)
    head = _head_config(args, model, stages, addresses)
    own_model = _model_of(stage, model)
    if args.omni_dp_size_local:
        model_source.require_folder(own_model)
    return ServeConfig(
        model=own_model,
        served_model_name=args.served_model_name or args.model,
        stage_id=args.stage_id,
        host=addresses.http,
        port=args.port,
        master_address=args.omni_master_address or loopback(),
        master_port=args.omni_master_port,
        local_replicas=args.omni_dp_size_local,
        replica_address=args.omni_replica_address,
        replica_bind_host=addresses.replicas,
        replica_port=args.omni_replica_port,
        engine=_engine_config(args, stage),
        stage_init_timeout=args.stage_init_timeout,
        drain_timeout=args.drain_timeout,
        log_level=args.log_level,
        head=None if args.headless else head,
        devices=visible_devices(os.environ),
        secret_file=args.omni_secret_file,
        traces_endpoint=_traces_endpoint(args.otlp_traces_endpoint, os.environ),
    )


def _check_combinations(args: argparse.Namespace) -> None:
    """Raises UsageError if flags contradict each other."""
    if args.headless and not args.omni_master_address:
        raise UsageError("--headless needs --omni-master-address: where the head is")
    if args.headless and args.omni_dp_size_local == 0:
        raise UsageError("--omni-dp-size-local 0 is for a head; a headless process needs at least 1")
    for flag in ("--cfg-parallel-size", "--ulysses-degree", "--ring-degree", "--tensor-parallel-size"):
        if getattr(args, flag.lstrip("-").replace("-", "_")) > 1 and args.step_execution is False:
            raise UsageError(f"{flag} above 1 divides single steps: it does not go with --no-step-execution")


def _stages(args: argparse.Namespace, model: ModelSource) -> tuple[Stage, ...]:
    """The stages that --stage-config names. Without it: as many as --stage-id needs, all alike."""
    if args.stage_config is not None:
        return read_stages(args.stage_config)
    engine = args.engine or ("autoregressive" if model.is_language_model else "diffusion")
    return tuple(Stage(id, f"stage-{id}", engine, args.task) for id in range(args.stage_id + 1))


def _model_of(stage: Stage, pipeline_model: ModelSource) -> ModelSource:
    """The model that a stage's replicas serve."""
    return pipeline_model if stage.model is None else model_source.parse(stage.model, stage.revision)


def _head_config(
    args: argparse.Namespace, model: ModelSource, stages: tuple[Stage, ...], addresses: ListenAddresses
) -> HeadConfig:
    return HeadConfig(
        master_address=addresses.master,
        coordinator_port=args.omni_coordinator_port,
        coordinator_pub_port=args.omni_coordinator_pub_port,
        lb_policy=args.omni_lb_policy,
        heartbeat_timeout=args.omni_heartbeat_timeout,
        stages=stages,
        models={stage.id: _model_of(stage, model) for stage in stages if stage.endpoint is None},
        stage_config=args.stage_config,
        api=api_config.from_arguments(args, os.environ, is_loopback(addresses.http)),
    )


def _engine_config(args: argparse.Namespace, stage: Stage) -> EngineConfig:
    load, loras = load_settings.from_arguments(args), lora_source.parse_all(args.lora)
    if loras and load.compile:
        raise UsageError(f"--lora: {NO_COMPILED_ADAPTERS}")
    return EngineConfig(
        step_execution=args.step_execution,
        max_num_seqs=AUTO_MAX_NUM_SEQS if args.max_num_seqs == "auto" else args.max_num_seqs,
        max_waiting=args.max_waiting,
        find_batch_size=args.max_num_seqs == "auto",
        scheduling_policy=args.scheduling_policy,
        kind=stage.engine,
        task=stage.task,
        text_encoder=args.text_encoder,
        parallel_size=args.cfg_parallel_size,
        pipeline_parallel_size=args.pipeline_parallel_size,
        of_model=_model_parallelism(args, load),
        step_timeout=args.step_timeout,
        load=load,
        loras=loras,
        cache=args.cache,
        prompt_cache_bytes=args.prompt_cache_bytes,
        compile_cache=_compile_cache(load, os.environ),
    )


def _compile_cache(load: LoadSettings, environment: Mapping[str, str]) -> str | None:
    """The folder that keeps what torch compiles, next to the models from the hub; None if torch has a folder itself."""
    if load.compile is None or not load.compile.cache or environment.get("TORCHINDUCTOR_CACHE_DIR"):
        return None
    caches = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return str(Path(environment.get("HF_HOME") or f"{caches}/huggingface").expanduser() / COMPILE_CACHE)


def _model_parallelism(args: argparse.Namespace, load: LoadSettings) -> ModelParallelism:
    """How several devices compute one call together. Raises UsageError if the model cannot be loaded so."""
    parallelism = ModelParallelism(args.ulysses_degree, args.ring_degree, args.tensor_parallel_size)
    for conflict in parallelism.conflicts(load, args.cache.mode, bool(args.lora)):
        raise UsageError(f"{conflict.flag} ({conflict.path}) {conflict.text}")
    return parallelism


def _traces_endpoint(flag: str | None, environment: Mapping[str, str]) -> str | None:
    """The URL that receives spans, from the flag or else from OpenTelemetry's own variables; None if there is none.

    Raises UsageError if the variables ask for another protocol than http/protobuf.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    endpoint = flag or environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not endpoint and (base := environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        endpoint = f"{base.rstrip('/')}/v1/traces"
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if endpoint and protocol not in (None, "", "http/protobuf"):
        raise UsageError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}, and traces are sent by http/protobuf alone: unset it, and "
            "name the collector's port for that (4318)"
        )
    return endpoint or None
