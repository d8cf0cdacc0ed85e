"""The types of what a user may say about pods: the same for heads and for stages. The rest is for `template`."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from omni_operator.crd.base import Record, with_unique_names
from omni_operator.crd.patterns import QUALIFIED_NAME, QUANTITY
from omni_operator.crd.spec.parts import Annotations, Labels, PodTemplate
from omni_operator.crd.spec.worker_flags import EXTRA_ARGUMENT, extra_argument

BYTES = ("memory", "ephemeral-storage")
"""Resources that are counted in bytes, of which there are no thousandths."""
OWN_ADDRESS = "POD_IP"
"""Reserved: the variable with the pod's address, which the command line uses."""


def _quantity(value: object) -> object:
    if (type(value) is int and value >= 0) or (isinstance(value, str) and re.match(QUANTITY, value)):
        return value
    raise ValueError("expected a quantity, like 2, 500m or 4Gi")


def _whole_bytes(amounts: dict[str, Any]) -> dict[str, Any]:
    for name in BYTES:
        if str(amounts.get(name, "")).endswith("m"):
            raise ValueError(
                f"{name} is {amounts[name]}, and m means thousandths; did you mean {amounts[name][:-1]}Mi?"
            )
    return amounts


Quantity = Annotated[
    int | str,
    BeforeValidator(_quantity),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 0, "pattern": QUANTITY, "maxLength": 20}),
]
Amounts = Annotated[
    dict[Annotated[str, Field(max_length=253)], Quantity],
    Field(
        max_length=16,
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": f"{list(BYTES)}.all(name, !(name in self) || !string(self[name]).endsWith('m'))",
                    "message": "m means thousandths of a byte; did you mean Mi, as in 512Mi?",
                }
            ]
        },
    ),
    AfterValidator(_whole_bytes),
]
# The API server checks it, as it does templates.
Affinity = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
ExtraArgument = Annotated[
    str,
    AfterValidator(extra_argument),
    WithJsonSchema({"type": "string", "pattern": EXTRA_ARGUMENT, "maxLength": 1024}),
]


class Resources(Record):
    requests: Amounts = Field(default_factory=dict, description="What the node reserves, like cpu: 2 or memory: 16Gi.")
    limits: Amounts = Field(default_factory=dict, description="What the container may use at most.")


class Toleration(Record):
    key: str | None = Field(default=None, description="Key of the taint; absent means every key.", max_length=316)
    operator: Literal["Equal", "Exists"] = Field(
        default="Equal", description="Exists tolerates every value of the taint."
    )
    value: str | None = Field(default=None, description="Value of the taint.", max_length=63)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; absent means every effect."
    )
    toleration_seconds: int | None = Field(
        default=None, description="How long a taint with effect NoExecute is tolerated; absent means forever.", ge=0
    )


class TopologySpread(Record):
    """A constraint on how the pods of the head or of a stage spread over nodes. It counts these pods only."""

    topology_key: str = Field(
        description="Label of nodes whose values the pods spread over.",
        examples=["kubernetes.io/hostname"],
        pattern=QUALIFIED_NAME,
        max_length=316,
    )
    max_skew: int = Field(default=1, description="Largest difference between the pods at two values.", ge=1, le=10000)
    when_unsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"] = Field(
        default="ScheduleAnyway", description="What happens to a pod that cannot be placed so."
    )


class Key(Record):
    name: str = Field(description="Name of the object, in the pipeline's namespace.", min_length=1, max_length=253)
    key: str = Field(description="Key that holds the value.", min_length=1, max_length=253)
    optional: bool = Field(default=False, description="Start without the variable if there is no such key.")


class PodField(Record):
    field_path: str = Field(description="Field of the pod, like spec.nodeName.", min_length=1, max_length=253)


SOURCES = ("secretKeyRef", "configMapKeyRef", "fieldRef")


class EnvSource(Record):
    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": " + ".join(f"(has(self.{key}) ? 1 : 0)" for key in SOURCES) + " == 1",
                    "message": f"expected one of {', '.join(SOURCES)}",
                }
            ]
        }
    )

    secret_key_ref: Key | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: Key | None = Field(default=None, description="A key of a ConfigMap.")
    field_ref: PodField | None = Field(default=None, description="A field of the pod.")

    @model_validator(mode="after")
    def _has_one_source(self) -> "EnvSource":
        if sum(one is not None for one in (self.secret_key_ref, self.config_map_key_ref, self.field_ref)) != 1:
            raise ValueError(f"expected one of {', '.join(SOURCES)}")
        return self


class EnvVar(Record):
    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "!has(self.value) || !has(self.valueFrom)",
                    "message": "has both value and valueFrom; remove one of the two",
                },
                {
                    "rule": f"self.name != '{OWN_ADDRESS}'",
                    "message": f"{OWN_ADDRESS} is the pod's own address; choose another name",
                },
            ]
        }
    )

    name: str = Field(
        description="Name of the variable.", pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$", min_length=1, max_length=253
    )
    value: str | None = Field(default=None, description="Its value; absent means empty.", max_length=32768)
    value_from: EnvSource | None = Field(default=None, description="Where its value comes from.")

    @model_validator(mode="after")
    def _has_one_value(self) -> "EnvVar":
        if self.value is not None and self.value_from is not None:
            raise ValueError("has both value and valueFrom; remove one of the two")
        if self.name == OWN_ADDRESS:
            raise ValueError(f"{OWN_ADDRESS} is the pod's own address; choose another name")
        return self


class PodSettings(Record):
    """Base of what has pods: the head, and each stage."""

    resources: Resources = Field(
        default_factory=Resources,
        description="CPU, memory and disk of the container. Devices come from accelerator.",
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(),
        description="Taints of nodes that the pods tolerate. Pods with devices always tolerate a taint with the name of"
        " their resource, like nvidia.com/gpu.",
        max_length=32,
        strict=False,
    )
    affinity: Affinity = Field(
        default_factory=dict,
        description="Nodes and pods that the pods are placed near or away from: nodeAffinity, podAffinity and"
        " podAntiAffinity of a pod.",
    )
    topology_spread_constraints: tuple[TopologySpread, ...] = Field(
        default=(), description="How the pods spread over nodes, zones and so on.", max_length=8, strict=False
    )
    pod_labels: Labels = Field(default_factory=dict, description="Labels of the pods.", max_length=32)
    pod_annotations: Annotations = Field(default_factory=dict, description="Annotations of the pods.", max_length=32)
    env: Annotated[tuple[EnvVar, ...], AfterValidator(with_unique_names)] = Field(
        default=(),
        description="Environment variables of the container. They override those of the operator.",
        max_length=64,
        strict=False,
    )
    extra_args: tuple[ExtraArgument, ...] = Field(
        default=(),
        description="Flags of omni serve that have no field here, like --log-level=debug.",
        max_length=32,
        strict=False,
    )
    template: PodTemplate = Field(
        default_factory=dict,
        description="Strategic merge patch over the pod template, for everything else: volumes, sidecars, … Containers"
        " (ours is called omni), env, volumes, volumeMounts and ports merge item by item; other lists are replaced.",
    )
