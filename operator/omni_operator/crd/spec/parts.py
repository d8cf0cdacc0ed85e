"""The types that several sections of the spec use: models, Secrets, volumes, labels and pod templates."""

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from omni_operator.crd.base import Record
from omni_operator.crd.patterns import MODEL_SOURCE, QUANTITY

Labels = Annotated[dict[str, str], WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}})]
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
    size: str | None = Field(
        default=None, description="Size of the claim that is made, like 20Gi.", pattern=QUANTITY, max_length=20
    )
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
