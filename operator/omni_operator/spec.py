"""The types of an `OmniPipeline`: what a user may write, with defaults, bounds, and the rules across fields.

This is the one description of the object. `crd.py` generates the schema that the API server enforces from it, and both
backends read the parsed form. `parse` is the only way in: it returns a whole, valid object, or raises `InvalidSpec`
with every problem by its field. A key that this version does not honour is refused rather than ignored.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel

from omni_operator import template
from omni_operator.problems import InvalidSpec, Problem, explain

GROUP = "omnipipeline.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "OmniPipeline"
PLURAL = "omnipipelines"

DNS_LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
MODEL_SOURCE = (
    r"^(builtin://[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    r"|hf://[A-Za-z0-9][-A-Za-z0-9._]*/[A-Za-z0-9][-A-Za-z0-9._]*"
    r"|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^\s]+)?"
    r"|/[^\s]+)$"
)
PERCENT = r"^(100|[1-9]?[0-9])%$"
QUALIFIED_NAME = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
HEAD = "head"


class Record(BaseModel):
    """Base of every type below: frozen, camelCase in YAML, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=to_camel)


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
    WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 1, "pattern": "^auto$"}),
]
CountOrPercent = Annotated[
    int | str,
    BeforeValidator(_count_or_percent),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 0, "pattern": PERCENT}),
]
# Left to the API server to check: a schema of the whole pod template would be a megabyte in every cluster.
PodTemplate = Annotated[
    dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
]


class SecretKey(Record):
    name: str = Field(description="Name of the Secret, in the pipeline's namespace.", min_length=1, max_length=253)
    key: str = Field(
        default="token", description="Key in the Secret that holds the value.", min_length=1, max_length=253
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
    policy: Literal["random", "round-robin", "least-queue-length"] = Field(
        default="least-queue-length", description="How the head picks the replica of a request."
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


class Parallelism(Record):
    cfg: int = Field(
        default=1,
        description="Processes of each replica, a device each, over which the rows of a batched model call are spread:"
        " the branches with and without guidance are such rows.",
        ge=1,
        le=64,
    )


class Scheduling(Record):
    mode: Literal["step", "request"] = Field(
        default="step",
        description="step: requests join and leave a running batch at every step. request: one at a time, whole.",
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


class Rollout(Record):
    max_unavailable: CountOrPercent = Field(
        default=1, description="Replicas that may be missing during a rollout: a count or a percentage."
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
    engine: Literal["diffusion"] = Field(description="Kind of engine that runs the stage.")
    replicas: int | None = Field(
        default=None,
        description="Headless pods of this stage; absent means spec.replicas, which `kubectl scale` writes.",
        ge=0,
        le=10000,
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
    template: PodTemplate = Field(
        default_factory=dict,
        description="Strategic merge patch over the pod template of the stage: env, volumes, tolerations, … Containers"
        " (ours is called omni), env, volumes and volumeMounts merge item by item; other lists are replaced.",
    )


class Spec(Record):
    """What the user wants."""

    model: Model = Field(description="The model that every stage serves.")
    image: Image = Field(default_factory=Image, description="The worker image.")
    replicas: int = Field(
        default=1, description="Headless pods of every stage that names no count of its own.", ge=0, le=10000
    )
    head: Head = Field(default_factory=Head, description="The head: HTTP API, membership and routing.")
    load_balancing: LoadBalancing = Field(
        default_factory=LoadBalancing, description="How requests spread over the replicas of a stage."
    )
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
        """Index of the stage whose replicas may run inside the head; its id too."""
        if self.spec.head.stage is None:
            return 0
        return next(i for i, stage in enumerate(self.spec.stages) if stage.name == self.spec.head.stage)

    def replicas_of(self, stage: Stage) -> int:
        """Headless pods wanted of a stage."""
        return self.spec.replicas if stage.replicas is None else stage.replicas


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


# ---- rules across fields, in the order they are reported


def names_make_services(pipeline: OmniPipeline) -> Iterable[Problem]:
    if not re.match(DNS_LABEL, pipeline.name) or len(pipeline.name) > 50:
        yield Problem(
            "metadata.name",
            f"{pipeline.name!r} cannot name the pipeline's Services; use at most 50 lower-case letters, digits and"
            " dashes, starting with a letter",
        )


def hub_settings_need_the_hub(pipeline: OmniPipeline) -> Iterable[Problem]:
    model = pipeline.spec.model
    if not model.source.startswith("hf://"):
        for key, value in (("revision", model.revision), ("tokenSecretRef", model.token_secret_ref)):
            if value is not None:
                yield Problem(
                    f"spec.model.{key}", f"is only for models of the hub, and the source is {model.source}; remove it"
                )


def stage_names_are_unique(pipeline: OmniPipeline) -> Iterable[Problem]:
    first: dict[str, int] = {}
    for index, stage in enumerate(pipeline.spec.stages):
        if stage.name in first:
            yield Problem(
                f"spec.stages[{index}].name",
                f"{stage.name!r} is already the name of spec.stages[{first[stage.name]}]; give each stage its own name",
            )
        first.setdefault(stage.name, index)
        if stage.name == HEAD:
            yield Problem(
                f"spec.stages[{index}].name",
                "'head' is the name of the pipeline's own head; give the stage another name",
            )


def one_stage_only(pipeline: OmniPipeline) -> Iterable[Problem]:
    if len(pipeline.spec.stages) > 1:
        yield Problem(
            "spec.stages",
            f"there are {len(pipeline.spec.stages)}: more than one stage needs an autoregressive engine, which this"
            " version does not have yet; keep one",
        )


def head_stage_exists(pipeline: OmniPipeline) -> Iterable[Problem]:
    names = [stage.name for stage in pipeline.spec.stages]
    if pipeline.spec.head.stage is not None and pipeline.spec.head.stage not in names:
        yield Problem(
            "spec.head.stage", f"{pipeline.spec.head.stage!r} is not a stage; expected one of: {', '.join(names)}"
        )


def devices_are_used(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        ranks, count = stage.parallelism.cfg, stage.accelerator.count if stage.accelerator else None
        if count is not None and count != ranks:
            yield Problem(
                f"spec.stages[{index}].parallelism.cfg",
                f"is {ranks}, and accelerator.count is {count}: each process of a replica uses one device; set both to"
                " the same number",
            )
        if ranks > 1 and stage.scheduling.mode == "request":
            yield Problem(
                f"spec.stages[{index}].parallelism.cfg",
                f"is {ranks}, and scheduling.mode is request: a request that runs whole cannot be divided; set mode to"
                " step, or cfg to 1",
            )


def rollout_can_move(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        if all(value in (0, "0%") for value in (stage.rollout.max_unavailable, stage.rollout.max_surge)):
            yield Problem(
                f"spec.stages[{index}].rollout",
                "maxUnavailable and maxSurge are both 0, so a rollout could never begin; set one of them to 1",
            )


def templates_can_be_merged(pipeline: OmniPipeline) -> Iterable[Problem]:
    yield from template.problems(pipeline.spec.head.template, "spec.head.template")
    for index, stage in enumerate(pipeline.spec.stages):
        yield from template.problems(stage.template, f"spec.stages[{index}].template")


RULES: tuple[Callable[[OmniPipeline], Iterable[Problem]], ...] = (
    names_make_services,
    hub_settings_need_the_hub,
    stage_names_are_unique,
    one_stage_only,
    head_stage_exists,
    devices_are_used,
    rollout_can_move,
    templates_can_be_merged,
)
