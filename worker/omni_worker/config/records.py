"""The configuration of a process, as frozen records: what `omni serve` reads from its flags and files.

Records only: this module reads no flags, files or environment variables. Durations are in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from omni_settings.load import LoadSettings
from omni_settings.parallelism import UNDIVIDED, ModelParallelism
from omni_worker.addresses import loopback
from omni_worker.config.api import ApiConfig
from omni_worker.config.endpoint import Endpoint
from omni_worker.config.lora_source import LoraSource
from omni_worker.config.model_source import ModelSource
from omni_worker.requests import NO_CACHE, CacheSettings


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline, as the head sees it.

    engine: `autoregressive`, `diffusion`, or `openai`: a server outside the pipeline, which generates text
    task: of an autoregressive stage: `generate` text, or `encode` the prompt for the next stage
    input: what it takes from the stage before it: `text` (as its prompt) or `hidden-states` (as prompt embeddings)
    system: the system message of a text stage, for conversations that do not start with one
    max_tokens: default length of a text stage's answer
    model, revision: what its replicas serve, if that differs from the pipeline's own model
    wake_seconds: for a stage that may scale to zero: how long a request waits for its first replica
    loras: adapters that its replicas must load
    endpoint: the server of a stage of the engine `openai`
    """

    id: int
    name: str
    engine: str = "diffusion"
    task: str = "generate"
    input: str = "text"
    system: str | None = None
    max_tokens: int | None = None
    model: str | None = None
    revision: str | None = None
    wake_seconds: float | None = None
    loras: tuple[LoraSource, ...] = ()
    endpoint: Endpoint | None = None

    @property
    def writes(self) -> bool:
        """Whether the stage generates text, one token per step."""
        return self.engine != "diffusion" and self.task == "generate"


@dataclass(frozen=True)
class HeadConfig:
    """What only a head needs: where its services listen, and how it routes.

    models: the model of each stage that has replicas, by stage id
    stage_config: the file that lists the stages, of which changes of adapters are followed
    """

    master_address: str
    coordinator_port: int
    coordinator_pub_port: int
    lb_policy: str
    heartbeat_timeout: float
    stages: tuple[Stage, ...]
    models: Mapping[int, ModelSource]
    stage_config: str | None = None
    api: ApiConfig = field(default_factory=ApiConfig)


@dataclass(frozen=True)
class EngineConfig:
    """How a replica runs its requests.

    step_execution: None runs step by step if the pipeline supports it, and otherwise whole requests
    max_num_seqs, max_waiting: requests that run at one time, and requests that wait beyond those
    find_batch_size: whether the engine finds the best batch size up to `max_num_seqs` itself
    kind, task: those of the replica's stage
    text_encoder: whether the pipeline loads its text encoder; False if the stage before does all the encoding
    parallel_size: processes of the replica that share the rows of each batched model call
    pipeline_parallel_size: processes of the replica that share a language model's layers
    of_model: how several processes compute one call of a denoiser together; each of those that share rows is so many
    step_timeout: seconds after which a step counts as failed
    load: how the model is loaded
    loras: adapters that requests can select
    cache: of requests that choose none
    prompt_cache_bytes: how many bytes of text encoders' results to keep
    compile_cache: the folder that keeps what torch compiles; None keeps nothing
    """

    step_execution: bool | None
    max_num_seqs: int
    max_waiting: int
    find_batch_size: bool
    scheduling_policy: str
    kind: str = "diffusion"
    task: str = "generate"
    text_encoder: bool = True
    parallel_size: int = 1
    pipeline_parallel_size: int = 1
    of_model: ModelParallelism = UNDIVIDED
    step_timeout: float = 600.0
    load: LoadSettings = field(default_factory=LoadSettings)
    loras: tuple[LoraSource, ...] = ()
    cache: CacheSettings = NO_CACHE
    prompt_cache_bytes: int = 0
    compile_cache: str | None = None

    @property
    def processes(self) -> int:
        """How many processes the replica has."""
        return self.parallel_size * self.pipeline_parallel_size * self.of_model.ranks


@dataclass(frozen=True)
class ReplicaConfig:
    """What one replica process needs. The supervisor passes it to the process as JSON.

    index: the replica's number within the process that supervises it
    address: where heads reach the replica; None is the address that the kernel uses to reach the master
    """

    model: str
    revision: str | None
    stage_id: int
    index: int
    master_address: str
    master_port: int
    bind_host: str
    address: str | None
    data_port: int
    engine: EngineConfig
    drain_timeout: float
    log_level: str = "info"
    secret_file: str | None = None
    traces_endpoint: str | None = None

    def encode(self) -> bytes:
        """The configuration as one line of JSON."""
        return msgspec.json.encode(self, enc_hook=lambda settings: settings.model_dump(by_alias=True))

    @classmethod
    def decode(cls, line: bytes) -> "ReplicaConfig":
        """The configuration that was encoded."""
        return msgspec.json.decode(line, type=cls, dec_hook=_decode_settings)


def _decode_settings(kind: Any, value: Any) -> Any:
    return kind.model_validate(value)


@dataclass(frozen=True)
class ServeConfig:
    """The configuration of one `omni serve` process.

    host, port: of its HTTP server
    replica_bind_host: the address on which its replicas listen
    head: None for a headless process
    devices: ids of the GPUs that its replicas share, as in CUDA_VISIBLE_DEVICES
    """

    model: ModelSource
    served_model_name: str
    stage_id: int
    host: str
    port: int
    master_address: str
    master_port: int
    local_replicas: int
    replica_address: str | None
    replica_bind_host: str
    replica_port: int
    engine: EngineConfig
    stage_init_timeout: float
    drain_timeout: float
    log_level: str
    head: HeadConfig | None
    devices: tuple[str, ...] = field(default=())
    secret_file: str | None = None
    traces_endpoint: str | None = None

    def replica(self, index: int) -> ReplicaConfig:
        """The configuration of this process's replica number `index`."""
        return ReplicaConfig(
            model=self.model.text,
            revision=self.model.revision,
            stage_id=self.stage_id,
            index=index,
            master_address=loopback() if self.head else self.master_address,
            master_port=self.master_port,
            bind_host=self.replica_bind_host,
            address=self.replica_address or (loopback() if self.head else None),
            data_port=self.replica_port + index,
            engine=self.engine,
            drain_timeout=self.drain_timeout,
            log_level=self.log_level,
            secret_file=self.secret_file,
            traces_endpoint=self.traces_endpoint,
        )
