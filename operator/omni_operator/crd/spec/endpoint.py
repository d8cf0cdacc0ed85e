"""The type of a stage's endpoint: a server outside the pipeline that takes the place of the stage's replicas."""

from pydantic import Field

from omni_operator.crd.base import Record
from omni_operator.crd.patterns import API_URL
from omni_operator.crd.spec.parts import SecretKey


class Endpoint(Record):
    url: str = Field(
        description="Base URL of its API, to which /chat/completions is added: http or https, without user, query or"
        " fragment. Redirects are not followed.",
        examples=["http://vllm.models.svc:8000/v1"],
        pattern=API_URL,
        max_length=1024,
    )
    model: str = Field(description="Name of the model at the server.", min_length=1, max_length=253)
    api_key_secret_ref: SecretKey | None = Field(
        default=None,
        description="Secret with the key that the server asks for. Only the head reads it, and notices a change while"
        " it runs. With omni up, the key is in OMNI_ENDPOINT_KEY_ and the stage's name in capitals.",
    )
    timeout_seconds: int = Field(
        default=300, description="Longest time of one answer, with all its retries.", ge=1, le=86400
    )
    retries: int = Field(
        default=2,
        description="Further calls after one that failed before any of its text reached the client.",
        ge=0,
        le=10,
    )
