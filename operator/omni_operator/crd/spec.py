"""The types of an `OmniPipeline`: what a user may write, with defaults and bounds.

This is the one description of the object. `crd.py` generates the schema that the API server enforces from it, and both
backends read the parsed form. `parse` is the only way in: it returns a whole, valid object, which keeps the rules of
`rules.py` too, or raises `InvalidSpec` with every problem by its field. A key that this version does not honour is
refused rather than ignored.

Over 500 lines, for it reads as the object does, from top to bottom: nearly all are fields with their descriptions.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from omni_operator.crd.base import Record
from omni_operator.crd.patterns import DNS_LABEL, DURATION, MODEL_SOURCE, PERCENT, QUALIFIED_NAME, QUANTITY
from omni_operator.crd.problems import InvalidSpec, explain
from omni_operator.crd.rules import RULES
from omni_operator.crd.spec_parts import Api, SecretKey, Storage, Videos

GROUP = "omnipipeline.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "OmniPipeline"
EXTERNAL = "external"
PLURAL = "omnipipelines"


def _count_or_auto(value: object) -> object:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError("expected 'auto' or a whole number of 1 or more")


def _count_or_percent(value: object) -> object:
    if (type(value) is int and value >= 0) or (isinstance(value, str) and re.match(PERCENT, value)):
        return value
    raise ValueError("expected a whole number of 0 or more, or a percentage like '25%'")


def _of_no_type(schema: dict[str, Any]) -> None:
    del schema["type"]
    schema["x-kubernetes-preserve-unknown-fields"] = True


def _mapping_or_external(value: object) -> object:
    if value == EXTERNAL:
        return External()
    if isinstance(value, str):
        raise ValueError(f"expected {EXTERNAL!r}, or a mapping with maxReplicas")
    return value


CountOrAuto = Annotated[
    int | Literal["auto"],
    BeforeValidator(_count_or_auto),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 1, "pattern": "^auto$"}),
]
CountOrPercent = Annotated[
    int | str,
    BeforeValidator(_count_or_percent),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 0, "pattern": PERCENT}),
]
Labels = Annotated[dict[str, str], WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}})]
NetworkPeer = Annotated[
    dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
]
# Left to the API server to check: a schema of the whole pod template would be a megabyte in every cluster.
PodTemplate = Annotated[
    dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
]


class Cache(Storage):
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = Field(
        default="ReadWriteMany",
        description="Of the claim that is made. ReadWriteOnce keeps all pods of the pipeline on one node.",
    )
    prefetch: bool = Field(
        default=False,
        description="Download the models by a Job before the first pod starts, so that none holds a device meanwhile.",
    )


class Model(Record):
    source: str = Field(
        description="Where the weights are: builtin://NAME, hf://ORG/NAME, pvc://CLAIM/PATH, or an absolute path in the"
        " worker's own file system.",
        pattern=MODEL_SOURCE,
        examples=["builtin://digits", "hf://Qwen/Qwen-Image"],
    )
    revision: str | None = Field(
        default=None,
        description="Branch, tag or commit of a model on the hub; absent means its main branch.",
        pattern=r"^[A-Za-z0-9][-A-Za-z0-9._/]*$",
        max_length=200,
    )
    token_secret_ref: SecretKey | None = Field(
        default=None, description="Secret with the access token of the model hub, for gated models; becomes HF_TOKEN."
    )
    cache: Cache | None = Field(
        default=None,
        description="Volume for what is downloaded from the hub; absent means that each pod downloads for itself. Only"
        " of spec.model, for the models of all stages.",
    )


class Image(Record):
    name: str | None = Field(
        default=None, description="The worker image; absent means the operator's default.", min_length=1, max_length=512
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When the node pulls the image."
    )
    pull_secrets: tuple[str, ...] = Field(
        default=(),
        description="Names of Secrets with registry credentials, in the pipeline's namespace.",
        max_length=8,
        strict=False,
    )


class Head(Record):
    stage: str | None = Field(
        default=None,
        description="The stage whose replicas run inside the head, if any do; absent means the first stage.",
        pattern=DNS_LABEL,
        max_length=40,
    )
    local_replicas: int = Field(
        default=0,
        description="Replicas that run inside the head itself and share its node and devices. 0 keeps the head free of"
        " devices, so that it can run anywhere.",
        ge=0,
        le=16,
    )
    template: PodTemplate = Field(
        default_factory=dict, description="Strategic merge patch over the head's pod template: env, tolerations, …"
    )


class LoadBalancing(Record):
    policy: Literal["random", "round-robin", "least-queue-length", "power-of-two"] = Field(
        default="least-queue-length",
        description="How the head picks the replica of a request; power-of-two: the less loaded of two chosen at"
        " random.",
    )
    heartbeat_timeout_seconds: int = Field(
        default=30,
        description="Silence after which a replica gets no more requests, until it is heard of again.",
        ge=3,
        le=3600,
    )


class Accelerator(Record):
    resource: str = Field(
        default="nvidia.com/gpu",
        description="Extended resource that stands for one device.",
        examples=["nvidia.com/gpu"],
        pattern=QUALIFIED_NAME,
        max_length=253,
    )
    count: int = Field(default=1, description="Devices of one replica.", ge=1, le=64)
    node_selector: Labels = Field(
        default_factory=dict, description="Labels of the nodes that have the devices.", max_length=16
    )
    runtime_class_name: str | None = Field(
        default=None, description="RuntimeClass of pods with such devices, like nvidia.", min_length=1, max_length=253
    )


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

    @property
    def processes(self) -> int:
        """Processes of one replica."""
        return self.cfg * self.pipeline


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
    """Bounds and aim of the operator's own scaling; of `external` scaling, nothing in it counts."""

    # An object, or the word `external`: a schema that is to be installed cannot tell both types.
    model_config = ConfigDict(json_schema_extra=_of_no_type)

    min_replicas: int = Field(
        default=1,
        description="Fewest headless pods. 0: none while nobody asks; the first request then waits until one has"
        " started.",
        ge=0,
        le=10000,
    )
    max_replicas: int = Field(description="Most headless pods.", ge=1, le=10000)
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


class External(Autoscaling):
    """The word `external`: another autoscaler writes the count."""

    max_replicas: int = 10000


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


class Stage(Record):
    name: str = Field(
        description="Name of the stage, unique in the pipeline: lower-case letters, digits and dashes, starting with a"
        " letter.",
        pattern=DNS_LABEL,
        max_length=40,
        examples=["painter"],
    )
    engine: Literal["autoregressive", "diffusion"] = Field(
        description="Kind of engine that runs the stage: autoregressive reads and writes text, diffusion draws."
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
        description="Of an autoregressive stage that generates: what it is told before every conversation that does not"
        " begin so itself.",
        min_length=1,
        max_length=16384,
    )
    max_tokens: int | None = Field(
        default=None,
        description="Of an autoregressive stage that generates: how much it writes, where a request does not say.",
        ge=1,
        le=1_000_000,
    )
    replicas: int | None = Field(
        default=None,
        description="Headless pods of this stage; absent means spec.replicas, which `kubectl scale` writes.",
        ge=0,
        le=10000,
    )
    autoscaling: Annotated[Autoscaling | None, BeforeValidator(_mapping_or_external)] = Field(
        default=None,
        description="Has the operator choose the count of headless pods by the requests at the stage. Or the word"
        " external: a HorizontalPodAutoscaler or KEDA scales the stage's Deployment, whose replicas the operator then"
        " never writes. Absent means that replicas is the count.",
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
    shm_size: str | None = Field(
        default=None,
        description="Size of /dev/shm, which counts as memory of the pod; absent means as the node sees fit.",
        pattern=QUANTITY,
        max_length=20,
    )
    template: PodTemplate = Field(
        default_factory=dict,
        description="Strategic merge patch over the pod template of the stage: env, volumes, tolerations, … Containers"
        " (ours is called omni), env, volumes and volumeMounts merge item by item; other lists are replaced.",
    )

    @property
    def is_autoregressive(self) -> bool:
        return self.engine == "autoregressive"

    @property
    def is_scaled_elsewhere(self) -> bool:
        """Whether the count of its pods is for others to write."""
        return isinstance(self.autoscaling, External)

    @property
    def is_autoscaled(self) -> bool:
        """Whether the operator chooses the count of its pods."""
        return self.autoscaling is not None and not self.is_scaled_elsewhere

    @property
    def may_be_at_zero(self) -> bool:
        """Whether it has no pod while nobody asks."""
        return self.is_autoscaled and self.autoscaling is not None and self.autoscaling.min_replicas == 0

    @property
    def only_encodes(self) -> bool:
        return self.task == "encode"

    @property
    def takes_hidden_states(self) -> bool:
        return self.input == "hidden-states"


class Service(Record):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="ClusterIP", description="How the API is reached: from the cluster alone, or from outside it too."
    )
    annotations: Labels = Field(
        default_factory=dict, description="Annotations of the Service, for load balancers.", max_length=32
    )


class NetworkPolicy(Record):
    mode: Literal["none", "pipeline"] = Field(
        default="pipeline",
        description="pipeline: the ports by which processes speak with each other are open to the pipeline's own pods"
        " alone, and the HTTP port to its clients. none: no NetworkPolicy is made.",
    )
    clients: tuple[NetworkPeer, ...] = Field(
        default=(),
        description="Who may use the HTTP port, as the peers of a NetworkPolicy: podSelector, namespaceSelector or"
        " ipBlock; empty means everyone. The operator always may.",
        max_length=32,
        strict=False,
    )


class PodMonitor(Record):
    labels: Labels = Field(
        default_factory=dict, description="Labels by which the Prometheus object selects it.", max_length=32
    )
    interval: str | None = Field(
        default=None,
        description="Time between two scrapes, like 15s; absent means as Prometheus is set up.",
        pattern=DURATION,
        max_length=20,
    )


class Monitoring(Record):
    pod_monitor: PodMonitor | None = Field(
        default=None,
        description="Have a PodMonitor made of the pipeline's pods, for the Prometheus Operator; absent means none."
        " Not beside the chart's monitoring.podMonitors, which scrapes the pods of all pipelines.",
    )


class Spec(Record):
    """What the user wants."""

    model: Model = Field(description="The model that every stage serves, where the stage names none of its own.")
    image: Image = Field(default_factory=Image, description="The worker image.")
    replicas: int = Field(
        default=1, description="Headless pods of every stage that names no count of its own.", ge=0, le=10000
    )
    suspend: bool = Field(
        default=False,
        description="Run no pod, the head's neither, and keep everything else. Running requests finish first.",
    )
    paused: bool = Field(
        default=False, description="Change nothing in the cluster for this pipeline; only its status is kept up."
    )
    head: Head = Field(default_factory=Head, description="The head: HTTP API, membership and routing.")
    load_balancing: LoadBalancing = Field(
        default_factory=LoadBalancing, description="How requests spread over the replicas of a stage."
    )
    service: Service = Field(default_factory=Service, description="The Service of the API.")
    api_key_secret_ref: SecretKey | None = Field(
        default=None,
        description="Secret with the keys that clients of the API may come with, one a line; a change is noticed while"
        " it runs. Absent means that every client may come.",
    )
    api: Api = Field(default_factory=Api, description="How the API speaks, and what it takes.")
    videos: Videos = Field(
        default_factory=Videos, description="Where the head keeps videos, how many of them, and for how long."
    )
    priority_class_name: str | None = Field(
        default=None, description="PriorityClass of all pods.", min_length=1, max_length=253
    )
    network_policy: NetworkPolicy = Field(default_factory=NetworkPolicy, description="Who may connect to the pods.")
    monitoring: Monitoring = Field(default_factory=Monitoring, description="Who looks at the pods' metrics.")
    stages: tuple[Stage, ...] = Field(
        description="The stages of the pipeline, in the order a request passes them.",
        min_length=1,
        max_length=16,
        strict=False,
    )


class Metadata(BaseModel):
    """The part of the object's metadata that is read here; everything else in it is the cluster's."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0


class OmniPipeline(BaseModel):
    """A whole, valid pipeline."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    api_version: Literal["omnipipeline.dev/v1alpha1"] = Field(alias="apiVersion")
    kind: Literal["OmniPipeline"]
    metadata: Metadata
    spec: Spec
    status: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def head_stage(self) -> int:
        """Index of the stage whose replicas may run inside the head."""
        if self.spec.head.stage is None:
            return 0
        return next(i for i, stage in enumerate(self.spec.stages) if stage.name == self.spec.head.stage)

    @property
    def speaks_tls(self) -> bool:
        """Whether the API in a cluster speaks HTTPS; that of `omni up`, which has no Secrets, does not."""
        return self.spec.api.tls is not None

    @property
    def models(self) -> dict[str, Model]:
        """Every model that is named, by its field."""
        own = {f"spec.stages[{i}].model": stage.model for i, stage in enumerate(self.spec.stages) if stage.model}
        return {"spec.model": self.spec.model, **own}

    def replicas_of(self, stage: Stage) -> int:
        """Headless pods wanted of a stage, suspended or not; of one that is scaled, those to begin with."""
        wanted = self.spec.replicas if stage.replicas is None else stage.replicas
        bounds = stage.autoscaling
        return wanted if bounds is None else min(max(wanted, bounds.min_replicas), bounds.max_replicas)

    def model_of(self, stage: Stage) -> Model:
        """What a stage serves."""
        return self.spec.model if stage.model is None else stage.model


def parse(manifest: Mapping[str, Any]) -> OmniPipeline:
    """The pipeline that a manifest describes. Raises InvalidSpec with every problem found, each by its field."""
    try:
        pipeline = OmniPipeline.model_validate(manifest)
    except ValidationError as error:
        raise InvalidSpec(explain(error, OmniPipeline)) from None
    problems = [problem for rule in RULES for problem in rule(pipeline)]
    if problems:
        raise InvalidSpec(problems)
    return pipeline
