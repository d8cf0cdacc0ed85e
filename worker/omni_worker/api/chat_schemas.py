"""What POST /v1/chat/completions takes and gives, as OpenAI names it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from omni_worker.api.schemas import Generation
from omni_worker.requests import SamplingParams, Written

MAX_TEXT = 1_000_000


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: Annotated[str, Field(max_length=MAX_TEXT)]


class ChatMessage(BaseModel):
    """A turn of the conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=MAX_TEXT)] | Annotated[list[TextPart], Field(min_length=1)]
    name: Annotated[str | None, Field(max_length=256, description="Taken and not used.")] = None

    @property
    def text(self) -> str:
        """Its content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """What else a stream tells."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class ChatRequest(Generation):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    modalities: Annotated[
        list[Literal["text", "image"]] | None,
        Field(min_length=1, description="What is wanted: text unless the pipeline gives only pictures."),
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
    stream: Annotated[bool, Field(description="Tell the answer as it is written, as server-sent events.")] = False
    stream_options: StreamOptions | None = None
    presence_penalty: Annotated[Literal[0] | None, Field(description="Only 0.")] = None
    frequency_penalty: Annotated[Literal[0] | None, Field(description="Only 0.")] = None

    @model_validator(mode="after")
    def _fits_together(self) -> "ChatRequest":
        if not self.messages[-1].text:
            raise ValueError("the last message is empty")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self

    @property
    def sampling(self) -> SamplingParams:
        """How a stage that writes is to do so."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return SamplingParams(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=tuple(filter(None, stop)),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


class TopLogprob(BaseModel):
    """A token that was likely, and the natural logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class Logprob(TopLogprob):
    """The token that was written, and the likeliest at its place."""

    top_logprobs: list[TopLogprob] = []


class ChoiceLogprobs(BaseModel):
    """The probabilities of an answer, token by token."""

    content: list[Logprob]


class Reply(BaseModel):
    """The answer: text, or parts (`text` and `image_url` with a data: URL) where a picture was asked for."""

    role: Literal["assistant"] = "assistant"
    content: str | list[dict[str, Any]]


class Choice(BaseModel):
    """One of the answers."""

    index: int
    message: Reply
    finish_reason: str
    logprobs: ChoiceLogprobs | None = None


class Usage(BaseModel):
    """Tokens, of all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """Answer of POST /v1/chat/completions. `created` is in seconds since 1970."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


def logprobs_of(written: Written) -> list[Logprob]:
    """The probabilities of a piece's tokens."""
    return [
        Logprob(
            token=one.token,
            logprob=one.logprob,
            bytes=list(one.token.encode()),
            top_logprobs=[
                TopLogprob(token=token, logprob=value, bytes=list(token.encode())) for token, value in one.likeliest
            ],
        )
        for one in written.logprobs
    ]
