"""The type of an `OmniPipeline`, and the sections of its spec that are not about single stages."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from omni_operator.crd.base import Record
from omni_operator.crd.patterns import DNS_LABEL, DURATION, HOSTNAME, QUALIFIED_NAME
from omni_operator.crd.spec.api import Api, Videos
from omni_operator.crd.spec.parts import Annotations, Labels, Model, PullPolicy, SecretKey, SecretName
from omni_operator.crd.spec.pods import PodSettings
from omni_operator.crd.spec.stage import Stage

GROUP = "omnipipeline.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "OmniPipeline"
PLURAL = "omnipipelines"

NetworkPeer = Annotated[
    dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
]


class Image(Record):
    name: str | None = Field(
        default=None, description="The worker image; absent means the operator's default.", min_length=1, max_length=512
    )
    pull_policy: PullPolicy = Field(default="IfNotPresent", description="When the node pulls the image.")
    prefetch: bool = Field(
        default=False,
        description="Pull this image, and the images of oci:// models, to every node that the stages may use, before"
        " pods need them there.",
    )
    pull_secrets: tuple[SecretName, ...] = Field(
        default=(),
        description="Names of Secrets with registry credentials, in the pipeline's namespace.",
        max_length=8,
        strict=False,
    )


class Head(PodSettings):
    stage: str | None = Field(
        default=None,
        description="The stage whose replicas run inside the head, if any do; absent means the first stage that has"
        " replicas.",
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


class Gateway(Record):
    name: str = Field(description="Name of the Gateway.", min_length=1, max_length=253)
    namespace: str | None = Field(
        default=None,
        description="Its namespace; absent means that of the pipeline.",
        pattern=DNS_LABEL,
        max_length=63,
    )
    section_name: str | None = Field(
        default=None, description="One of its listeners; absent means all that fit.", min_length=1, max_length=253
    )


class Route(Record):
    parent_refs: tuple[Gateway, ...] = Field(
        description="The Gateways that pass requests to the API.", min_length=1, max_length=16, strict=False
    )
    hostnames: tuple[Annotated[str, Field(pattern=HOSTNAME, max_length=253)], ...] = Field(
        default=(),
        description="Host names of the API, like paint.example.org; empty means those of the listeners.",
        max_length=16,
        strict=False,
    )


class Service(Record):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="ClusterIP", description="How the API is reached: from the cluster alone, or from outside it too."
    )
    annotations: Annotations = Field(
        default_factory=dict, description="Annotations of the Service, for load balancers.", max_length=32
    )
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = Field(
        default=None, description="IPv4 and IPv6 addresses of the Service; absent means as the cluster has it."
    )
    load_balancer_class: str | None = Field(
        default=None,
        description="Implementation of a Service of type LoadBalancer; absent means the cluster's default.",
        pattern=QUALIFIED_NAME,
        max_length=253,
    )
    load_balancer_source_ranges: tuple[Annotated[str, Field(max_length=43)], ...] = Field(
        default=(),
        description="Client addresses that a Service of type LoadBalancer accepts, like 10.0.0.0/8; empty means all.",
        max_length=64,
        strict=False,
    )
    route: Route | None = Field(
        default=None,
        description="Have an HTTPRoute made to the API, where the Gateway API is installed; absent means none.",
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
    """The metadata that the operator reads. All other keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(
        description="Name of the pipeline and of its Services: at most 50 lower-case letters, digits and dashes,"
        " starting with a letter.",
        pattern=DNS_LABEL,
        max_length=50,
        examples=["painter"],
    )
    labels: dict[str, str] = Field(default_factory=dict)
    namespace: str = "default"
    uid: str = ""
    generation: int = 0


class OmniPipeline(BaseModel):
    """A pipeline. `crd.parsing` returns only valid ones."""

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
            return next((i for i, stage in enumerate(self.spec.stages) if not stage.is_endpoint), 0)
        return next(i for i, stage in enumerate(self.spec.stages) if stage.name == self.spec.head.stage)

    @property
    def speaks_tls(self) -> bool:
        """Whether the API speaks HTTPS in a cluster. With `omni up`, which has no Secrets, it never does."""
        return self.spec.api.tls is not None

    @property
    def models(self) -> dict[str, Model]:
        """Every model of the spec, by the path of its field."""
        of_stages = {f"spec.stages[{i}].model": stage.model for i, stage in enumerate(self.spec.stages) if stage.model}
        return {"spec.model": self.spec.model, **of_stages}

    def replicas_of(self, stage: Stage) -> int:
        """Headless pods of a stage, as if it were not suspended. For a stage with autoscaling: the initial count."""
        count = self.spec.replicas if stage.replicas is None else stage.replicas
        bounds = stage.autoscaling
        return count if bounds is None else min(max(count, bounds.min_replicas), bounds.most)

    @property
    def scaled_stage(self) -> Stage | None:
        """The last stage whose count is spec.replicas; None if no stage follows it.

        It stands for the pipeline in the scale subresource: an autoscaler compares its pods with spec.replicas, so the
        pods of a second stage would make it choose too many.
        """
        following = [
            stage
            for stage in self.spec.stages
            if stage.replicas is None and stage.autoscaling is None and not stage.is_endpoint
        ]
        return following[-1] if following else None

    def model_of(self, stage: Stage) -> Model:
        """The model that a stage serves."""
        return self.spec.model if stage.model is None else stage.model
