"""The request schema of POST /v1/chat/completions, with OpenAI's names."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from omni_worker.api.schemas import GenerationBody
from omni_worker.errors import RequestError
from omni_worker.requests import SEED_LIMIT, SamplingParams

MAX_TEXT = 1_000_000
"""Maximum length of one text in a message, in characters."""
MAX_PARTS = 1000
"""Of one message."""


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: Annotated[str, Field(max_length=MAX_TEXT)]


class ImageUrl(BaseModel):
    """Where a picture is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Annotated[
        str,
        Field(
            description="The picture itself, as `data:image/png;base64,…`; other addresses are refused, for the server "
            "fetches nothing."
        ),
    ]
    detail: Annotated[Literal["auto", "low", "high", "original"] | None, Field(description="Taken and not used.")] = (
        None
    )


class ImagePart(BaseModel):
    """A picture in a message. The stages that draw start from the newest ones of the conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """A turn of the conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: (
        Annotated[str, Field(max_length=MAX_TEXT)]
        | Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]
    )
    name: Annotated[str | None, Field(max_length=256, description="Taken and not used.")] = None

    @property
    def text(self) -> str:
        """The text of the message; its parts are joined."""
        return (
            self.content
            if isinstance(self.content, str)
            else "".join(part.text for part in self.content if isinstance(part, TextPart))
        )

    @property
    def image_urls(self) -> list[str]:
        """The URLs of the images in the message."""
        parts = [] if isinstance(self.content, str) else self.content
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]


class StreamOptions(BaseModel):
    """What else a stream tells."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class ChatRequest(GenerationBody):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000, fail_fast=True)]
    n: Annotated[int | None, Field(ge=1, description="How many answers, `--max-n` at most.")] = 1
    modalities: Annotated[
        list[Literal["text", "image"]] | None,
        Field(min_length=1, max_length=2, description="What is wanted: text unless the pipeline gives only pictures."),
    ] = None
    max_tokens: Annotated[int | None, Field(ge=1, le=1_000_000, description="Tokens to write at most.")] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=1_000_000, description="The same.")] = None
    temperature: Annotated[
        float | None, Field(ge=0, le=2, allow_inf_nan=False, description="0 takes the likeliest token every time.")
    ] = None
    top_p: Annotated[float | None, Field(gt=0, le=1, description="Share of the probability to draw from.")] = None
    top_k: Annotated[int | None, Field(ge=0, le=1_000_000, description="How many tokens to draw from; 0: all.")] = None
    stop: Annotated[
        str | Annotated[list[str], Field(max_length=16)] | None, Field(description="Texts that end the answer.")
    ] = None
    logprobs: Annotated[bool | None, Field(description="Tell the probability of every token.")] = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20, description="And of the likeliest at its place.")] = None
    stream: Annotated[bool | None, Field(description="Tell the answer as it is written, as server-sent events.")] = (
        False
    )
    stream_options: StreamOptions | None = None
    seed: Annotated[
        int | None,
        Field(
            ge=-SEED_LIMIT,
            lt=SEED_LIMIT,
            description="Any integer of 64 bits. The same seed gives the same answer; answer i of n has seed + i. "
            "Random if left out.",
        ),
    ] = None
    presence_penalty: Annotated[float | None, Field(ge=0, le=0, description="Only 0.")] = None
    frequency_penalty: Annotated[float | None, Field(ge=0, le=0, description="Only 0.")] = None

    @model_validator(mode="after")
    def _check_combinations(self) -> "ChatRequest":
        if not self.messages[-1].text:
            raise RequestError("invalid", "messages: the last message has no text", "messages")
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("invalid", "top_logprobs: needs logprobs: true", "top_logprobs")
        if self.stream_options is not None and not self.stream:
            raise RequestError("invalid", "stream_options: needs stream: true", "stream_options")
        return self

    @property
    def count(self) -> int:
        """How many choices the request asks for."""
        return self.n or 1

    @property
    def sampling(self) -> SamplingParams:
        """The sampling parameters of a text stage."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return SamplingParams(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=tuple(filter(None, stop)),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )
