"""The types that several sections of the spec use: models, Secrets, volumes, labels and pod templates."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from omni_operator.crd.base import Record
from omni_operator.crd.patterns import MODEL_SOURCE, QUANTITY, SIZE
from omni_operator.crd.quantities import parse_quantity

PullPolicy = Literal["Always", "IfNotPresent", "Never"]
SecretName = Annotated[str, Field(min_length=1, max_length=253)]
# The API server checks keys and values where they are used. The bounds limit what the rules in CEL may cost.
Labels = dict[str, Annotated[str, Field(max_length=63)]]
Annotations = dict[str, Annotated[str, Field(max_length=65536)]]


def _size(value: str) -> str:
    quantity = parse_quantity(value)
    if value.endswith("m"):
        raise ValueError(f"m means thousandths; did you mean {value[:-1]}Mi?")
    if quantity is not None and quantity < 1:
        raise ValueError("leaves room for nothing; expected 1 byte or more, like 64Mi")
    return value


Size = Annotated[
    str,
    Field(
        pattern=QUANTITY,
        max_length=20,
        json_schema_extra={
            "pattern": SIZE,
            "x-kubernetes-validations": [
                {"rule": "!self.endsWith('m')", "message": "m means thousandths; did you mean Mi, as in 64Mi?"}
            ],
        },
    ),
    AfterValidator(_size),
]
"""A number of bytes."""
# The API server checks it: a schema of the whole pod template would be a megabyte in every cluster.
PodTemplate = Annotated[
    dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
]


class SecretKey(Record):
    name: str = Field(description="Name of the Secret, in the pipeline's namespace.", min_length=1, max_length=253)
    key: str = Field(
        default="token", description="Key in the Secret that holds the value.", min_length=1, max_length=253
    )


class SecretUrl(SecretKey):
    key: str = Field(default="url", description="Key in the Secret that holds the value.", min_length=1, max_length=253)


class Storage(Record):
    """A volume: the name of an existing claim, or the size of a claim that the operator creates."""

    claim_name: str | None = Field(
        default=None,
        description="A PersistentVolumeClaim of your own; or give a size, and one is made.",
        min_length=1,
        max_length=253,
    )
    size: Size | None = Field(default=None, description="Size of the claim that is created, like 20Gi.")
    storage_class: str | None = Field(
        default=None,
        description="Storage class of the claim that is made; absent means the cluster's default.",
        max_length=253,
    )
    retain: bool = Field(default=False, description="Keep the claim that was made when the pipeline is deleted.")


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
        description="Where the weights are: builtin://NAME, hf://ORG/NAME, oci://REGISTRY/NAME:TAG (an image, also with"
        " @sha256:DIGEST), pvc://CLAIM/PATH, or an absolute path in the worker's own file system.",
        pattern=MODEL_SOURCE,
        max_length=1024,
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
    pull_policy: PullPolicy | None = Field(
        default=None,
        description="When a node pulls the image of an oci:// model; absent means Always for the tag latest, and"
        " IfNotPresent for others.",
    )
    pull_secrets: tuple[SecretName, ...] = Field(
        default=(),
        description="Names of Secrets with credentials of the registry of an oci:// model, in the pipeline's namespace;"
        " those of spec.image are used too.",
        max_length=8,
        strict=False,
    )
    cache: Cache | None = Field(
        default=None,
        description="Volume for what is downloaded from the hub; absent means that each pod downloads for itself. Only"
        " of spec.model, for the models of all stages.",
    )
