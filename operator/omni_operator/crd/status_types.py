"""The types of an `OmniPipeline`'s status. Pure.

The only time in a status is `lastTransitionTime`, which changes only with the status of its condition. So an unchanged
pipeline has an unchanged status, and nothing is written.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from omni_operator.crd.base import Record

ConditionType = Literal[
    "Accepted",
    "HeadReady",
    "Ready",
    "Progressing",
    "Degraded",
    "Suspended",
    "ScalingActive",
    "NodesWarm",
    "Reconciling",
    "Stalled",
]
Timestamp = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class Report(Record):
    """Base of the status types. Code constructs them by field name; in the cluster their keys are camelCase."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)


class Condition(Report):
    type: ConditionType = Field(description="Reconciling and Stalled repeat Progressing for tools that use kstatus.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(description="One CamelCase word for programs.")
    message: str = Field(description="What it is, and what to do where something is to be done.")
    observed_generation: int = Field(default=0, description="The generation of the spec that this is about.")
    last_transition_time: Timestamp = Field(description="When the status of this condition last changed.")


class LoraStatus(Report):
    name: str = Field(description="Name of the adapter.")
    replicas: int = Field(description="Replicas that have loaded it.")
    message: str | None = Field(default=None, description="Why another replica could not load it.")


class StageStatus(Report):
    name: str = Field(description="Name of the stage.")
    desired: int = Field(description="Headless pods that are wanted.")
    replicas: int = Field(description="Headless pods that exist.")
    ready: int = Field(description="Headless pods that serve: loaded, registered with the head and heartbeating.")
    updated: int = Field(description="Headless pods that run the current spec.")
    reason: str | None = Field(default=None, description="Why not all of them serve, in one CamelCase word.")
    message: str | None = Field(default=None, description="Why not all of them serve.")
    endpoint: Literal["Up", "Down", "Unknown"] | None = Field(
        default=None, description="Of a stage that is a server outside the pipeline: whether it answers the head."
    )
    loras: tuple[LoraStatus, ...] = Field(
        default=(),
        description="LoRA adapters, those of the spec and those that clients added, while the spec names some.",
        strict=False,
    )


class Status(Report):
    """What is."""

    observed_generation: int = Field(
        default=0, description="The generation of the spec that was acted on last; -1 before the first time."
    )
    replicas: int = Field(
        default=0, description="Headless pods that exist of the last stage that follows spec.replicas, for autoscalers."
    )
    pods: int = Field(default=0, description="Headless pods that exist, over all stages.")
    ready_replicas: int = Field(default=0, description="Headless pods that serve, over all stages.")
    # Never empty: Kubernetes 1.20 takes an empty text for a null.
    selector: str | None = Field(default=None, description="Label selector of the pods that replicas counts.")
    stages: tuple[StageStatus, ...] = Field(default=(), description="Counts of each stage.", strict=False)
    last_valid_spec: str | None = Field(
        default=None, description="The spec in JSON that stays in effect while a later one is not valid."
    )
    conditions: tuple[Condition, ...] = Field(
        default=(), description="What can be said of it, each thing once.", strict=False
    )
