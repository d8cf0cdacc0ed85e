"""The types of a pipeline's HTTP API and of its videos."""

from typing import Annotated

from pydantic import Field

from omni_operator.crd.base import Record
from omni_operator.crd.patterns import ORIGIN
from omni_operator.crd.spec.parts import SecretUrl, Size, Storage

Origin = Annotated[str, Field(pattern=ORIGIN, max_length=300)]


class Tls(Record):
    secret_name: str = Field(
        description="Secret of the type kubernetes.io/tls, in the pipeline's namespace, with tls.crt and tls.key; a"
        " change is noticed while it runs.",
        min_length=1,
        max_length=253,
    )


class Limits(Record):
    """Limits of requests. The API rejects larger ones with 400; with 413 for a body, 503 for all bodies together."""

    pixels: int | None = Field(
        default=None,
        description="Pixels of a picture or of a frame of a video, asked for or sent; absent means 16777216.",
        ge=1,
        le=2**31 - 1,
    )
    steps: int | None = Field(default=None, description="Denoising steps; absent means 1000.", ge=1, le=1_000_000)
    frames: int | None = Field(default=None, description="Frames of a video; absent means 1000.", ge=1, le=1_000_000)
    video_pixels: int | None = Field(
        default=None,
        description="Pixels of all frames of a video together, three bytes each; absent means 536870912.",
        ge=1,
        le=2**31 - 1,
    )
    audio_seconds: int | None = Field(
        default=None, description="Seconds of a sound; absent means 600.", ge=1, le=36_000
    )
    answers: int | None = Field(
        default=None, description="Answers to one request, its n; absent means 10.", ge=1, le=10_000
    )
    prompt_length: int | None = Field(
        default=None, description="Characters of a prompt; absent means 32000.", ge=1, le=2**31 - 1
    )
    body_size: Size | None = Field(
        default=None,
        description="Size of a request's body, like 64Mi, which absent means.",
    )
    total_body_size: Size | None = Field(
        default=None,
        description="Size of the bodies of all requests together, like 512Mi, which absent means; more get 503. The"
        " head needs up to twice as much memory for them.",
    )
    loras: int | None = Field(
        default=None,
        description="LoRA adapters that clients can add while the pipeline runs; for a further one, the one that was"
        " not used for the longest time is removed. Absent means 64.",
        ge=1,
        le=256,
    )
    lora_size: Size | None = Field(
        default=None,
        description="Size of the files of all LoRA adapters of a replica, like 16Gi, which absent means.",
    )


class Api(Record):
    tls: Tls | None = Field(
        default=None,
        description="Has the API speak HTTPS, with this certificate; absent means HTTP. The probes and the metrics of"
        " the head are at the same port, and speak it too.",
    )
    cors_origins: tuple[Origin, ...] = Field(
        default=(),
        description="Web origins whose pages may call the API, like https://example.org, or * for all.",
        max_length=32,
        strict=False,
    )
    playground: bool = Field(default=True, description="Serve a page for people at /.")
    limits: Limits = Field(default_factory=Limits, description="What requests may ask for.")
    result_cache_size: Size | None = Field(
        default=None,
        description="Memory in which the head keeps pictures and sounds, like 1Gi, for a client that sends the"
        " same request with the same seed again; absent means none.",
    )


class Videos(Record):
    storage: Storage | None = Field(
        default=None,
        description="Volume of the head for videos and their jobs, so that they outlast it; absent means that they end"
        " with the head.",
    )
    database_url_secret_ref: SecretUrl | None = Field(
        default=None,
        description="Secret with the URL of a database for videos and their jobs, in place of a volume, as SQLAlchemy"
        " names it: postgresql+psycopg://USER:PASSWORD@HOST/NAME. Becomes OMNI_DATABASE_URL of the head.",
    )
    jobs: int | None = Field(
        default=None, description="Videos that are made at one time; absent means 4.", ge=1, le=10_000
    )
    max_age_hours: int | None = Field(
        default=None, description="How long finished videos are kept; absent means 24.", ge=1, le=87600
    )
    max_size: Size | None = Field(
        default=None,
        description="How large they may be in all, the oldest of which go first; absent means 10Gi.",
    )
