"""The response schemas of POST /v1/chat/completions, with OpenAI's names."""

from typing import Any, Literal

from pydantic import BaseModel


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


class Delta(BaseModel):
    """What a piece adds to an answer."""

    role: Literal["assistant"] | None = None
    content: str | list[dict[str, Any]] | None = None


class ChunkChoice(BaseModel):
    """A piece of one of the answers."""

    index: int
    delta: Delta
    finish_reason: str | None = None
    logprobs: ChoiceLogprobs | None = None


class ChatChunk(BaseModel):
    """One event of a streamed answer; the last one has `usage` and no choices, where it was asked for."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
