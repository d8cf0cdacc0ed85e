"""The types of an `OmniPipeline`'s status. Pure.

The only time in a status is `lastTransitionTime`, which changes only with the status of its condition. So an unchanged
pipeline has an unchanged status, and nothing is written.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from omni_operator.crd.base import Record

ConditionType = Literal["Accepted", "HeadReady", "Ready", "Progressing", "Degraded", "Suspended", "ScalingActive"]
Timestamp = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class Report(Record):
    """Base of the status types. Code constructs them by field name; in the cluster their keys are camelCase."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)


class Condition(Report):
    type: ConditionType = Field(
        description="Accepted, HeadReady, Ready, Progressing, Degraded, Suspended or ScalingActive."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(description="One CamelCase word for programs.")
    message: str = Field(description="What it is, and what to do where something is to be done.")
    observed_generation: int = Field(default=0, description="The generation of the spec that this is about.")
    last_transition_time: Timestamp = Field(description="When the status of this condition last changed.")


class StageStatus(Report):
    name: str = Field(description="Name of the stage.")
    desired: int = Field(description="Headless pods that are wanted.")
    replicas: int = Field(description="Headless pods that exist.")
    ready: int = Field(description="Headless pods that serve: loaded, registered with the head and heartbeating.")
    updated: int = Field(description="Headless pods that run the current spec.")
    reason: str | None = Field(default=None, description="Why not all of them serve, in one CamelCase word.")
    message: str | None = Field(default=None, description="Why not all of them serve.")


class Status(Report):
    """What is."""

    observed_generation: int = Field(default=0, description="The generation of the spec that was acted on last.")
    replicas: int = Field(default=0, description="Headless pods that exist, over all stages.")
    ready_replicas: int = Field(default=0, description="Headless pods that serve, over all stages.")
    # Never empty: Kubernetes 1.20 takes an empty text for a null.
    selector: str | None = Field(default=None, description="Label selector of the headless pods, for autoscalers.")
    stages: tuple[StageStatus, ...] = Field(default=(), description="Counts of each stage.", strict=False)
    conditions: tuple[Condition, ...] = Field(
        default=(), description="What can be said of it, each thing once.", strict=False
    )
