"""The types of one stage: its engine, devices, number of pods, scheduling, rollout and drain."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from omni_operator.crd.base import Record, with_unique_names
from omni_operator.crd.patterns import DNS_LABEL, DNS_SUBDOMAIN, LORA_NAME, LORA_SOURCE, PERCENT, QUALIFIED_NAME
from omni_operator.crd.spec.endpoint import Endpoint
from omni_operator.crd.spec.parts import Labels, Model, Size
from omni_operator.crd.spec.pods import PodSettings
from omni_settings.cache import Cache
from omni_settings.load import LoadSettings
from omni_settings.parallelism import ModelParallelism

NVIDIA_GPU = "nvidia.com/gpu"
MAX_REPLICAS = 10_000
ENDPOINT_ENGINE = "openai"
"""The engine of a stage that is a server outside the pipeline."""


def _count_or_auto(value: object) -> object:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError("expected 'auto' or a whole number of 1 or more")


def _count_or_percent(value: object) -> object:
    if (type(value) is int and value >= 0) or (isinstance(value, str) and re.match(PERCENT, value)):
        return value
    raise ValueError("expected a whole number of 0 or more, or a percentage like '25%'")


CountOrAuto = Annotated[
    int | Literal["auto"],
    BeforeValidator(_count_or_auto),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 1, "pattern": "^auto$", "maxLength": 4}),
]
CountOrPercent = Annotated[
    int | str,
    BeforeValidator(_count_or_percent),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 0, "pattern": PERCENT, "maxLength": 4}),
]


class Accelerator(Record):
    resource: str | None = Field(
        default=None,
        description="Extended resource that stands for one device; absent means nvidia.com/gpu, if no other key says"
        " what the devices are.",
        examples=["nvidia.com/gpu"],
        pattern=QUALIFIED_NAME,
        max_length=253,
    )
    device_class_name: str | None = Field(
        default=None,
        description="DeviceClass of the devices, where they are allocated dynamically (resource.k8s.io/v1): each"
        " replica claims count of them.",
        examples=["gpu.nvidia.com"],
        pattern=DNS_SUBDOMAIN,
        max_length=253,
    )
    resource_claim_template_name: str | None = Field(
        default=None,
        description="ResourceClaimTemplate in the pipeline's namespace, from which each replica gets a claim; the claim"
        " has to ask for count devices.",
        pattern=DNS_SUBDOMAIN,
        max_length=253,
    )
    count: int = Field(default=1, description="Devices of one replica.", ge=1, le=64)
    node_selector: Labels = Field(
        default_factory=dict, description="Labels of the nodes that have the devices.", max_length=16
    )
    runtime_class_name: str | None = Field(
        default=None, description="RuntimeClass of pods with such devices, like nvidia.", min_length=1, max_length=253
    )

    @property
    def is_claimed(self) -> bool:
        """Whether the devices are allocated dynamically, by claims."""
        return bool(self.device_class_name or self.resource_claim_template_name)

    @property
    def extended_resource(self) -> str | None:
        """The resource that stands for one device; None if devices are claimed."""
        return None if self.is_claimed else self.resource or NVIDIA_GPU


class Parallelism(Record):
    cfg: int = Field(
        default=1,
        description="Processes of each replica, a device each, over which the rows of a batched model call are spread:"
        " the branches with and without guidance are such rows. Of a diffusion stage.",
        ge=1,
        le=64,
    )
    pipeline: int = Field(
        default=1,
        description="Processes of each replica, a device each, over which the layers of the model are spread. Of an"
        " autoregressive stage.",
        ge=1,
        le=64,
    )
    ulysses: int = Field(
        default=1,
        description="Devices that compute each call of a denoiser together: each has a part of the sequence, and of the"
        " heads in each attention. Of a diffusion stage.",
        ge=1,
        le=64,
    )

    ring: int = Field(
        default=1,
        description="Devices that compute each call of a denoiser together: each has a part of the sequence, and passes"
        " keys and values on in each attention. Needs an attention kernel for it (load.attention). Of a diffusion"
        " stage.",
        ge=1,
        le=64,
    )
    tensor: int = Field(
        default=1,
        description="Devices over which the weights of each denoiser are divided, so that a model can be larger than"
        " one device. Of a diffusion stage.",
        ge=1,
        le=64,
    )

    @property
    def processes(self) -> int:
        """Processes of one replica."""
        return self.cfg * self.pipeline * self.of_model.ranks

    @property
    def of_model(self) -> ModelParallelism:
        """How several devices compute one call together."""
        return ModelParallelism(ulysses=self.ulysses, ring=self.ring, tensor=self.tensor)


class Scheduling(Record):
    mode: Literal["step", "request"] = Field(
        default="step",
        description="step: requests join and leave a running batch at every step. request: one at a time, whole, for"
        " diffusion only.",
    )
    policy: Literal["fifo", "drr", "srpt", "edf"] = Field(
        default="fifo",
        description="Who runs next: in order of arrival (fifo), fair shares of the time for tenants (drr), the shortest"
        " first (srpt), or the earliest deadline (edf); higher priorities before lower ones in all of them.",
    )
    max_num_seqs: CountOrAuto = Field(
        default="auto",
        description="Requests that a replica runs at one time; auto: 32, in batches that grow as far as that pays.",
    )
    max_waiting: int = Field(
        default=256,
        description="Requests that wait at a replica beyond those. When all replicas hold so many, more are answered"
        " with 429 and a Retry-After.",
        ge=0,
        le=100_000,
    )


class Autoscaling(Record):
    mode: Literal["load", "external"] = Field(
        default="load",
        description="Who chooses the count of headless pods. load: the operator, by the requests at the stage."
        " external: a HorizontalPodAutoscaler or KEDA, which scales the stage's Deployment; the operator then never"
        " writes its replicas, and the other fields stay unset.",
    )
    min_replicas: int = Field(
        default=1,
        description="Fewest headless pods. 0: none while nobody asks; the first request then waits until one has"
        " started.",
        ge=0,
        le=MAX_REPLICAS,
    )
    max_replicas: int | None = Field(
        default=None, description="Most headless pods; required for mode load.", ge=1, le=MAX_REPLICAS
    )
    target_queue_length: int = Field(
        default=4,
        description="Requests at a replica, running and waiting together, that the count aims at.",
        ge=1,
        le=100_000,
    )
    scale_down_stabilization_seconds: int = Field(
        default=300,
        description="The count follows a falling load only after this time, in which no more was wanted.",
        ge=0,
        le=86400,
    )

    @property
    def most(self) -> int:
        """The most pods of a stage."""
        return MAX_REPLICAS if self.max_replicas is None else self.max_replicas


class Rollout(Record):
    max_unavailable: CountOrPercent = Field(
        default=1,
        description="Replicas that may be missing during a rollout, or while nodes are drained: a count or a"
        " percentage.",
    )
    max_surge: CountOrPercent = Field(
        default=0, description="Replicas above the wanted count during a rollout; each needs free devices."
    )


class Drain(Record):
    timeout_seconds: int = Field(
        default=300,
        description="Longest time a stopping replica may take to finish the requests it runs.",
        ge=1,
        le=86400,
    )


class Lora(Record):
    name: str = Field(
        description="Name by which requests select the adapter, unique in the stage.",
        pattern=LORA_NAME,
        max_length=63,
        examples=["ink"],
    )
    source: str = Field(
        description="hf://org/name, hf://org/name@revision, pvc://claim/path, an image oci://registry/name:tag, or a"
        " file or folder of the pods, such as one on a volume of the template.",
        pattern=LORA_SOURCE,
        max_length=1024,
        examples=["hf://org/ink-style", "/loras/ink.safetensors"],
    )
    weight_name: str | None = Field(
        default=None,
        description="File in the repository or folder; absent means the only one in the safetensors format.",
        min_length=1,
        max_length=253,
    )
    scale: float = Field(
        default=1.0, description="How strongly it works in requests that give no scale.", ge=-100, le=100
    )
    component: Literal["transformer_2"] | None = Field(
        default=None,
        description="The model that it adapts, if not the pipeline's first: transformer_2 of Wan 2.2, which denoises"
        " the later steps.",
    )


class Stage(PodSettings):
    name: str = Field(
        description="Name of the stage, unique in the pipeline: lower-case letters, digits and dashes, starting with a"
        " letter.",
        pattern=DNS_LABEL,
        max_length=40,
        examples=["painter"],
    )
    engine: Literal["autoregressive", "diffusion", "openai"] = Field(
        description="Kind of engine that runs the stage: autoregressive reads and writes text, diffusion draws. openai:"
        " a server outside the pipeline writes text, such as vLLM; the stage has an endpoint in place of pods."
    )
    endpoint: Endpoint | None = Field(
        default=None, description="Of the engine openai: the server, and how it is asked."
    )
    task: Literal["generate", "encode"] | None = Field(
        default=None,
        description="Of an autoregressive stage: generate text, or only encode the prompt for the stage after it;"
        " absent means generate.",
    )
    input: Literal["text", "hidden-states"] | None = Field(
        default=None,
        description="What the stage takes from the one before it: its text as the prompt, or its hidden states as the"
        " prompt's embeddings; absent means text. Not for the first stage, which takes the request.",
    )
    model: Model | None = Field(default=None, description="The model that this stage serves; absent means spec.model.")
    system: str | None = Field(
        default=None,
        description="Of a stage that writes text: what it is told before every conversation that does not begin so"
        " itself.",
        min_length=1,
        max_length=16384,
    )
    max_tokens: int | None = Field(
        default=None,
        description="Of a stage that writes text: how much it writes, where a request does not say.",
        ge=1,
        le=1_000_000,
    )
    load: LoadSettings = Field(default_factory=LoadSettings, description="How a replica loads the model.")
    loras: Annotated[tuple[Lora, ...], AfterValidator(with_unique_names)] = Field(
        default=(),
        description="LoRA adapters that requests can select by name. A change is loaded into the replicas while they"
        " run; only for another claim or image, their pods restart. Not of a stage that writes text.",
        max_length=256,
        strict=False,
    )
    cache: Cache | None = Field(
        default=None,
        description="Which model calls are left out in requests that do not say: faster, approximately. Only of a"
        " diffusion stage in step mode.",
    )
    prompt_cache_size: Size | None = Field(
        default=None,
        description="Memory in which each replica keeps the results of text encoders, so that a repeated prompt is not"
        " encoded again; absent means 256Mi, 1 keeps nothing. It counts as memory of the pod.",
    )
    replicas: int | None = Field(
        default=None,
        description="Headless pods of this stage; absent means spec.replicas, which `kubectl scale` writes.",
        ge=0,
        le=10000,
    )
    autoscaling: Autoscaling | None = Field(
        default=None,
        description="How the count of headless pods follows the load; absent means that replicas is the count.",
    )
    local_replicas: int = Field(
        default=1, description="Replicas in each headless pod, each with its own devices.", ge=1, le=16
    )
    accelerator: Accelerator | None = Field(default=None, description="Devices of each replica; absent means the CPU.")
    parallelism: Parallelism = Field(
        default_factory=Parallelism, description="How a replica divides its work over its devices."
    )
    scheduling: Scheduling = Field(default_factory=Scheduling, description="How a replica orders its work.")
    rollout: Rollout = Field(default_factory=Rollout, description="How a change of the pods is rolled out.")
    drain: Drain = Field(default_factory=Drain, description="How a replica stops.")
    startup_timeout_seconds: int = Field(
        default=600,
        description="Longest time a replica may take to load its weights before it is restarted.",
        ge=10,
        le=86400,
    )
    shm_size: Size | None = Field(
        default=None,
        description="Size of /dev/shm, which counts as memory of the pod; absent means 16Gi.",
    )

    @property
    def is_autoregressive(self) -> bool:
        return self.engine == "autoregressive"

    @property
    def is_endpoint(self) -> bool:
        """Whether it is a server outside the pipeline, and has no pods."""
        return self.engine == ENDPOINT_ENGINE

    @property
    def draws(self) -> bool:
        return self.engine == "diffusion"

    @property
    def writes_text(self) -> bool:
        return not self.draws and not self.only_encodes

    @property
    def longest_request_seconds(self) -> int:
        """How long the head waits for a request at this stage while it stops."""
        return self.endpoint.timeout_seconds if self.endpoint else self.drain.timeout_seconds

    @property
    def is_scaled_elsewhere(self) -> bool:
        """Whether another autoscaler writes the count of its pods."""
        return self.autoscaling is not None and self.autoscaling.mode == "external"

    @property
    def is_autoscaled(self) -> bool:
        """Whether the operator decides the count of its pods."""
        return self.autoscaling is not None and not self.is_scaled_elsewhere

    @property
    def may_be_at_zero(self) -> bool:
        """Whether an autoscaler may remove its last pod, and starts one when a request waits."""
        if self.autoscaling is None:
            return False
        return self.is_scaled_elsewhere or self.autoscaling.min_replicas == 0

    @property
    def only_encodes(self) -> bool:
        return self.task == "encode"

    @property
    def takes_hidden_states(self) -> bool:
        return self.input == "hidden-states"
